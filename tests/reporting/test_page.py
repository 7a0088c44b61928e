"""The page of a run: whole, self-contained, escaped, and built from incomplete runs too."""

import base64
import json
import math
import re

import pytest
from scipy import stats

from rr_jax.evaluate.metric import Metric, share_of
from rr_jax.reporting.page import metrics_table, summary_table, write_report
from rr_jax.runs.results import Choice, Cost, Recall, RoundResult, SurfaceResult
from tests.records import arm, attack, metric, metrics, point, round_result, summary

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def make(folder, found=None, after="safe", attacks=None):
    """The page of a run folder with these results."""
    (folder / "samples").mkdir(exist_ok=True)
    (found or summary()).write(folder)
    (folder / "config.yaml").write_text("seed: 0\n")
    for name, text in (("base", "<script>alert(1)</script>"), ("round_01", after)):
        lines = [{"metric": m, "prompt": "p & q", "response": text} for m in ("f", "u")]
        (folder / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if attacks is not None:
        attacks.write(folder)
    return write_report(folder).read_text()


def test_a_run_until_reveal_prints_what_it_found():
    search = (arm(score=0.25, text="ask"), arm(score=0.5, text="", kind="soft"))
    recall = told(0.4, 0.4, 5)
    rounds = (
        RoundResult(round_index=1, search=search, revealed=12, recall=recall),
        RoundResult(round_index=2, revealed=12),
    )
    text = summary_table(summary(*rounds, base={}, base_validation={}, selected_round=0))
    assert [line.split() for line in text.splitlines()] == [
        ["round", "revealed", "recall", "best", "score", "of"],
        ["1", "12", "40", "%", "0.500", "soft", "arm"],
        ["2", "12", "\u2013", "\u2013"],
    ]


def test_the_page_is_whole_escaped_and_needs_no_network(tmp_path):
    page = make(tmp_path)
    assert page.count("<svg") == 5
    assert "0.900" in page
    assert "0.100" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "say &lt;b&gt;it&lt;/b&gt;" in page
    assert "p &amp; q" in page
    assert set(re.findall(r"""https?://[^"'\s]+""", page)) <= NAMESPACES
    assert not re.search(r"""(src|href)\s*=\s*["']?//|@import|url\((?!#)""", page)
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(target.startswith(("#", "data:image/png;")) for target in loaded)
    ids = dict(re.findall(r"""<(\w+[^>]*) id="([^"]+)\"""", page))
    assert not any(tag.startswith("g") for tag in ids)
    assert "suppresses under this protocol" in page


@pytest.mark.parametrize(
    "missing",
    [["trade_off"], ["search"], ["layers"], ["loss"], ["retention"], ["metrics", "retention"],
     ["forget_strength", "retain_strength", "accepted", "metrics", "retention", "trade_off", "search", "layers", "loss"]],
)  # fmt: skip
def test_a_round_may_lack_a_part(tmp_path, missing):
    empty = {name: RoundResult(round_index=1, revealed=0).model_dump()[name] for name in missing}
    assert '<h2>Round 1</h2> <span class="quiet">' in make(tmp_path, summary(round_result(**empty)))


def test_a_run_without_an_accepted_round(tmp_path):
    none = summary(selected_round=0, stop=None, status="running").model_copy(update={"rounds": ()})
    assert "the selected model is the base model" in make(tmp_path, none)
    assert "the run has not ended" in summary_table(none)


def test_a_round_that_was_not_accepted_is_no_headline(tmp_path):
    refused = round_result(accepted=False, forget_strength=0.0, metrics=None, retention=None)
    page = make(tmp_path, summary(refused, selected_round=0))
    assert "the selected model is the base model" in page
    assert "Not accepted: no strength stayed within the budgets" in page
    assert "chosen</text>" not in page


def test_the_headline_names_the_worst_utility_metric_and_the_stop(tmp_path):
    measured = round_result(metrics=metrics(f=0.1, u=0.76, ppl=2.5), retention=metrics(u=0.95, ppl=0.8))
    base = metrics(f=0.9, u=0.8, ppl=2.0)
    page = make(tmp_path, summary(measured, base=base, utility_metrics={"u": "higher", "ppl": "lower"}))
    assert re.search(r"0\.900 &rarr; 0\.100", page)
    assert re.search(r"80 %</b><span class=\"quiet\">ppl", page)
    assert "all 1 rounds are done" in page
    assert "ppl \u2193" in page
    assert "removes" not in page


def test_before_and_after_stand_side_by_side_only_for_the_same_prompt(tmp_path):
    page = make(tmp_path, after="AFTER")
    assert page.index("&lt;script&gt;") < page.index("AFTER")
    assert page.count("AFTER") == 2
    line = {"metric": "f", "prompt": "another", "response": "AFTER"}
    (tmp_path / "samples" / "round_01.jsonl").write_text(json.dumps(line) + "\n")
    assert "AFTER" not in write_report(tmp_path).read_text()


def test_odd_values_do_not_cost_the_page(tmp_path):
    odd = {"loss": metrics(revealing_prompt=0.5, x=math.nan), "layers": {"overlap": {"q": [0.1, math.nan]}}}
    page = make(tmp_path, summary(round_result(**odd)), after="lone \ud800 surrogate $x_")
    assert "lone ? surrogate $x_" in page


def test_the_table_has_a_row_for_each_metric_with_its_standard_error():
    measured = round_result(metrics=metrics(f=0.1) | {"u": metric(0.76, 0.0616)})
    lines = summary_table(summary(measured, base=metrics(f=0.9) | {"u": share_of([True] * 4 + [False])})).splitlines()
    assert lines[1].split() == ["forget:", "f", "0.900", "\u00b1", "0.000", "0.100", "\u00b1", "0.000"]
    error = f"{(0.8 * 0.2 / 5) ** 0.5:.3f}"
    assert lines[2].split() == ["keep:", "u", "0.800", "\u00b1", error, "0.760", "\u00b1", "0.062", "(95%)"]


def test_a_table_of_metrics_says_n_and_standard_error_and_the_base_if_known():
    found = {"f": share_of([True, False, False, False]), "p": metric(2.5, None)}
    lines = [line.split() for line in metrics_table(found, metrics(f=0.9)).splitlines()]
    assert lines == [
        ["metric", "value", "n", "standard", "error", "base"],
        ["f", "0.250", "4", "0.217", "0.900", "\u00b1", "0.000"],
        ["p", "2.500", "48", "\u2013", "\u2013"],
    ]
    assert "base" not in metrics_table(found, {})


def test_intervals_stand_beside_the_metrics_and_in_the_trade_off(tmp_path):
    hits = share_of([True] * 6 + [False] * 42)
    low, high = stats.binomtest(6, 48).proportion_ci(0.95, method="wilson")
    page = make(tmp_path, summary(round_result(metrics=metrics(u=0.76) | {"f": hits})))
    assert f'0.125 <span class="ci">{low:.2f}\u2013{high:.2f}</span>' in page
    flat = make(tmp_path, summary(round_result(trade_off=(point(0.4, 0.3, stderr=None), point(0.8, 0.1, stderr=None)))))
    spread = make(
        tmp_path, summary(round_result(trade_off=(point(0.4, 0.3, stderr=0.1), point(0.8, 0.1, stderr=0.05))))
    )
    of = [re.search(r"Trade-off: choosing.*?</figure>", text, re.DOTALL)[0].count("<path") for text in (flat, spread)]
    assert of[1] - of[0] == 2  # a line for each point


@pytest.mark.parametrize(
    ("said", "title"), [({"title": "keywords: Lily, <Tom>"}, "keywords: Lily, &lt;Tom&gt; <"), ({}, "f <")]
)
def test_the_title_says_what_is_forgotten(tmp_path, said, title):
    assert f"Forget: {title}" in make(tmp_path, summary(**said))


def test_a_metric_that_did_not_fall_is_no_suppression(tmp_path):
    page = make(tmp_path, summary(round_result(metrics=metrics(f=0.95, u=0.76))))
    assert "suppresses under this protocol" not in page
    assert "the forget metric did not fall" in page


def test_the_parts_of_a_worst_of_metric_stand_beside_it(tmp_path):
    before = {"disclosure/person": 0.9, "f1/person": 0.9, "named/person": 0.8, "f1/place": 0.7, "u": 0.8}
    measured = round_result(
        metrics=metrics(**before | {"disclosure/person": 0.75, "f1/person": 0.1, "named/person": 0.75})
    )
    page = make(tmp_path, summary(measured, base=metrics(**before), forget_metric="disclosure/person"))
    shown = page.index("<td>disclosure/person"), page.index("<td>f1/person"), page.index("<td>named/person")
    assert list(shown) == sorted(shown) and shown[-1] < page.index("to keep")
    assert page.index("<td>f1/place") > page.index("also measured")


def test_one_strength_is_a_sentence_that_says_why_there_is_no_other(tmp_path):
    assert "the grid has no other" in make(tmp_path, summary(round_result(trade_off=(point(0.4, 0.1),))))
    for only, reason in ((point(0.4, 0.1, 0.3, within_budget=False), "less than half of the budget"),):
        page = make(tmp_path, summary(round_result(trade_off=(only,))))
        assert reason in page
        assert "Trade-off" not in page
        assert page.count("<svg") == 4
    assert "kept at worst 30 % (u)" in page


def test_strengths_of_the_retain_adapter_are_told_apart_only_where_there_are_several(tmp_path):
    page = make(tmp_path)
    assert ">0.4 chosen</text>" in page and ">0.8</text>" in page
    assert "The lowest point right of the budget is chosen" in page and "one of the retain adapter" not in page
    grid = (*round_result().trade_off, point(0.4, 0.1, 0.97, retain_strength=0.5))
    for fallback, said in (
        (None, "the one with the least loss on texts to keep"),
        ("no strength did", "No strength did."),
    ):
        rule = Choice(name="least_interference_at_target", fallback=fallback)
        page = make(tmp_path, summary(round_result(trade_off=grid, rule=rule)))
        for label in ("0.4 and 1 chosen", "0.4 and 0.5", "0.8 and 1"):
            assert f">{label}</text>" in page
        assert said in page and "and one of the retain adapter that is added" in page


def test_prompts_without_a_text_are_called_by_what_they_are(tmp_path):
    search = (
        arm(text=""),
        arm(text="", kind="soft", order=1, arm=4),
        arm(text="useless", score=1e-6, order=2, arm=5),
    )
    page = make(tmp_path, summary(round_result(search=search)))
    assert re.findall(r'<td class="text">(.*?)<td>(\w+)', page) == [
        ('<span class="quiet">(start of text)</span>', "text"),
        ('<span class="quiet">soft prompt</span> ', "soft"),
    ]
    assert "each from the (start of text)" not in page
    lines = json.dumps({"metric": "f", "prompt": "", "response": "x", "mention": True}) + "\n"
    for name in ("base", "round_01"):
        (tmp_path / "samples" / f"{name}.jsonl").write_text(lines)
    page = write_report(tmp_path).read_text()
    assert "each from the (start of text)" in page
    assert page.count("mentions it") == 2


def told(now, in_all, facts):
    """A recall of so many facts."""
    return Recall(this_round=Metric(now, facts, 0.1, True), cumulative=Metric(in_all, facts, 0.1, True))


def two_rounds(facts):
    """Two measured rounds, the second of which forgets all and keeps less."""
    changes = {2: {"metrics": metrics(f=0.0, u=0.72), "retention": metrics(u=0.9)}, 1: {}}
    rounds = [
        round_result(number, recall=told(share, share, facts), **changes[number])
        for number, share in ((1, 0.5), (2, 1.0))
    ]
    return summary(*rounds, selected_round=2, residual=told(0.0, 1.0, facts))


def test_recall_is_a_plot_only_where_there_is_something_to_plot(tmp_path):
    page = make(tmp_path, two_rounds(facts=10))
    assert "<h3>Recall</h3>" in page
    assert "the forget sets disclose 100 % of the 10 facts" in page
    assert "<h3>Round by round</h3>" in page
    page = make(tmp_path, two_rounds(facts=1))
    assert "<h3>Recall</h3>" not in page
    assert "The one fact known to be there was disclosed by the forget sets." in page
    assert "a new search found nothing of it." in page


def test_only_the_selected_round_is_unfolded(tmp_path):
    page = make(tmp_path, two_rounds(facts=1))
    assert re.findall(r'<details class="round"( open)?><summary><h2>Round (\d)', page) == [("", "1"), (" open", "2")]


def test_colours_follow_the_page_so_that_dark_mode_is_readable(tmp_path):
    page = make(tmp_path, two_rounds(facts=10))
    fixed = {
        color for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) for color in re.findall(r"#[0-9a-f]{6}\b", svg)
    }
    assert fixed == set()
    style = page[: page.index("</style>")]
    used = set(re.findall(r"var\((--\w+)\)", page))
    light, dark = (
        set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{ (--paper: #\w+; --card.*?)\}", style)
    )
    assert used <= light
    assert light == dark


def test_every_plot_has_a_name_and_a_caption(tmp_path):
    page = make(tmp_path, two_rounds(facts=10))
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == page.count("<svg")
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]+"', figure)
        assert re.search(r"<figcaption>[A-Z][^<]{20,}\.</figcaption>", figure)


def test_a_map_without_anything_on_it_is_a_sentence(tmp_path):
    layers = {"update_cosine": {"q": [0.0004, -0.002], "v": [math.nan, 0.0]}}
    page = make(tmp_path, summary(round_result(layers=round_result().layers | layers)))
    assert "Direction of the two updates: below 0.005 in absolute value" in page
    assert page.count("<svg") == 4


def test_interference_is_shown_when_a_round_has_it(tmp_path):
    ratio, cosine = {"q": [0.4, 0.625], "v": [math.nan, 0.2]}, {"q": [-0.5, 0.1], "v": [0.0, 0.0]}
    layers = round_result().layers | {"output_ratio": ratio, "gradient_cosine": cosine}
    cost = Cost(retain_loss_increase=Metric(0.0125, 48, 0.001), per_forgetting=Metric(0.25, 48))
    page = make(tmp_path, summary(round_result(layers=layers, cost=cost)))
    assert page.count("<svg") == 7
    assert "0.625</text>" in page
    assert "-0.500</text>" in page
    assert re.search(r"nats a token<td class=\"number\">0\.0125 <span class=\"ci\">0\.0105\u20130\.0145<", page)


ROUNDED = {"8": metrics(f=0.125, u=0.7, degenerate=0.0), "4": metrics(f=0.375, u=0.5)}


def rows_of(page):
    """The cells of every table row after the attacks' heading, without intervals."""
    rest = page[page.index("Attacks: what comes back") : page.index("Round 1</h2>")]
    rest = re.sub(r' <span class="ci">.*?</span>', "", rest)
    rows = (re.split(r"<td[^>]*>|</tr>", row)[1:-1] for row in re.findall(r"<tr><td>.*?</tr>", rest, re.DOTALL))
    return [[cell.strip() for cell in row] for row in rows]


def test_attacks_are_a_curve_and_tables_beside_the_base_and_the_released_model(tmp_path):
    base_curve = {"base": (metric(0.9), metric(0.95)), "degenerate_base": (metric(0.0), metric(0.25))}
    protocol = {"missing": "a <model> that never knew", "seed": 3, "relearn": {"learning_rate": 0.001}}
    found = attack(
        relearn=base_curve,
        protocol=protocol,
        prompts={"few_shot": metrics(base=0.875, released=0.0625)},
        quantize=ROUNDED,
        quantize_base={"4": metrics(f=0.875, u=0.75)},
    )
    page = make(tmp_path, attacks=found)
    assert page.count("<svg") == 6
    assert rows_of(page) == [
        ["few shot", "0.875", "0.062"],
        ["base model", "0.900", "0.800"],
        ["base model, 4 bits", "0.875", "0.750"],
        ["as released", "0.100", "0.760"],
        ["released, 8 bits", "0.125", "0.700"],
        ["released, 4 bits", "0.375", "0.500"],
    ]
    assert "Tried below: training on true forget data, rounded weights, other prompts." in page
    assert "reading it out of the weights" in page
    assert "base model, trained the same" in page
    assert "Up to 25 % of the answers on the way were degenerate." in page
    assert "Missing: a &lt;model&gt; that never knew." in page
    assert "seed: 3\nrelearn:\n  learning_rate: 0.001\n" in page


def test_what_was_not_tried_is_said_and_attacks_of_another_round_are_none_on_this_one(tmp_path):
    page = make(tmp_path)
    assert "Attacks" not in page
    assert "Not tested: whether training on true forget data or rounded weights or other prompts" in page
    page = make(tmp_path, attacks=attack())
    assert "Not tested: whether rounded weights would bring it back." in page
    assert "Tried below" not in make(tmp_path, attacks=attack(round_index=2))


def test_a_surface_that_was_drawn_is_in_the_page(tmp_path):
    (tmp_path / "surface.svg").write_text("<svg>&</svg>")
    losses = ((1.0,), (2.0,))
    SurfaceResult(
        round_index=1, forget_strength=(0.0, 0.5), retain_strength=(0.0,), retain_adapter=None, rows={}, forget_nll=losses,
        retain_nll=losses,
    ).write(tmp_path)  # fmt: skip
    page = make(tmp_path)
    assert f'src="data:image/svg+xml;base64,{base64.b64encode(b"<svg>&</svg>").decode()}"' in page
    (tmp_path / "surface.svg").unlink()
    assert "Loss over both strengths" not in write_report(tmp_path).read_text()


def test_a_broken_attacks_file_is_named(tmp_path):
    make(tmp_path)
    (tmp_path / "attacks.json").write_text("{")
    with pytest.raises(ValueError, match=r"attacks\.json: is not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "attacks.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"attacks\.json: expected a JSON object, found list"):
        write_report(tmp_path)


def test_a_run_that_only_reveals_has_no_metrics_to_show(tmp_path):
    found = RoundResult(round_index=1, search=(arm(),), revealed=12)
    page = make(tmp_path, summary(found, base={}, base_validation={}, selected_round=0))
    assert "This run only searched and collected" in page
    assert "Metrics on test data" not in page


def test_a_folder_without_a_summary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no summary.json yet"):
        write_report(tmp_path)
