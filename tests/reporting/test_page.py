"""The page of a run: whole, self-contained, escaped, and built from incomplete runs too."""

import base64
import copy
import json
import re

import pytest

from rr_jax.reporting.page import summary_table, write_report

POINT = {
    "order": 0,
    "arm": 3,
    "kind": "text",
    "text": "say <b>it</b>",
    "score": 0.6,
    "relevance": 0.7,
    "diversity": 0.5,
}
TRIED = {"eta_retain": 1.0, "degenerate": 0.0, "retain_nll": 1.2}
SUMMARY = {
    "task": "ner",
    "forget_metric": "f",
    "utility_metrics": {"u": "higher"},
    "seed": 0,
    "base": {"f": 0.9, "u": 0.8, "degenerate": 0.0},
    "selected_round": 1,
    "status": "complete",
    "selection_rule": "the rule",
    "stop": {"reason": "rounds_done", "explanation": "all 1 rounds are done"},
    "rounds": [
        {
            "round": 1,
            "eta_forget": 0.4,
            "eta_retain": 1.0,
            "accepted": True,
            "revealed": 12,
            "metrics": {"f": 0.1, "u": 0.76, "degenerate": 0.02},
            "retention": {"u": 0.95},
            "utility_budget": 0.9,
            "trade_off": [
                TRIED | {"eta_forget": 0.4, "forget": 0.1, "utility": 0.95, "within_budget": True},
                TRIED | {"eta_forget": 0.8, "forget": 0.0, "utility": 0.5, "within_budget": False},
            ],
            "search": [POINT | {"chosen_by": "initial"}, POINT | {"order": 1, "kind": "soft", "chosen_by": "bandit"}],
            "overlap": {"q": [0.1, 0.2], "v": [0.0, 0.3]},
            "update_cosine": {"q": [0.1, -0.2], "v": [0.0, 0.3]},
            "loss": {"revealing_prompt": 0.5, "training_prompt_before": 2.0},
        }
    ],
}


NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def make(folder, summary, after="safe", attacks=None):
    (folder / "samples").mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("seed: 0\n")
    for name, text in (("base", "<script>alert(1)</script>"), ("round_01", after)):
        lines = [{"metric": m, "prompt": "p & q", "response": text} for m in ("f", "u")]
        (folder / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if attacks is not None:
        (folder / "attacks.json").write_text(json.dumps(attacks))
    return write_report(folder).read_text()


def test_a_run_until_reveal_prints_what_it_found():
    search = [POINT | {"score": 0.25, "text": "ask"}, POINT | {"score": 0.5, "text": "", "kind": "soft"}]
    entry = {"round": 1, "search": search, "revealed": 12, "recall": {"cumulative": 0.4}, "metrics": None}
    text = summary_table({"base": {}, "rounds": [entry, entry | {"round": 2, "search": [], "recall": {}}]})
    assert [line.split() for line in text.splitlines()] == [
        ["round", "revealed", "recall", "best", "score", "of"],
        ["1", "12", "40", "%", "0.500", "soft", "arm"],
        ["2", "12", "\u2013", "\u2013"],
    ]


def test_the_page_is_whole_escaped_and_needs_no_network(tmp_path):
    page = make(tmp_path, SUMMARY)
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
    [["trade_off"], ["search"], ["overlap"], ["update_cosine"], ["loss"], ["retention"], ["metrics", "retention"],
     [key for key in SUMMARY["rounds"][0] if key != "round"]],
)  # fmt: skip
def test_a_round_may_lack_a_part(tmp_path, missing):
    summary = copy.deepcopy(SUMMARY)
    for key in missing:
        del summary["rounds"][0][key]
    assert "Round 1" in make(tmp_path, summary)


def test_a_run_without_an_accepted_round(tmp_path):
    none = SUMMARY | {"rounds": [], "selected_round": 0, "stop": None, "status": "running"}
    assert "the selected model is the base model" in make(tmp_path, none)
    assert "the run has not ended" in summary_table(none)


def test_a_round_that_was_not_accepted_is_no_headline(tmp_path):
    summary = copy.deepcopy(SUMMARY) | {"selected_round": 0}
    summary["rounds"][0] |= {"accepted": False, "eta_forget": 0.0, "metrics": None, "retention": None}
    page = make(tmp_path, summary)
    assert "the selected model is the base model" in page
    assert "Not accepted: no strength stayed within the budgets" in page
    assert "chosen</text>" not in page


def test_the_headline_names_the_worst_utility_metric_and_the_stop(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    summary["utility_metrics"] = {"u": "higher", "ppl": "lower"}
    summary["base"]["ppl"] = 2.0
    summary["rounds"][0]["metrics"]["ppl"] = 2.5
    summary["rounds"][0]["retention"]["ppl"] = 0.8
    page = make(tmp_path, summary)
    assert re.search(r"0\.900 &rarr; 0\.100", page)
    assert re.search(r"80 %</b><span class=\"quiet\">ppl", page)
    assert "all 1 rounds are done" in page
    assert "ppl \u2193" in page
    assert "removes" not in page


def test_before_and_after_stand_side_by_side_only_for_the_same_prompt(tmp_path):
    page = make(tmp_path, SUMMARY, after="AFTER")
    assert page.index("&lt;script&gt;") < page.index("AFTER")
    assert page.count("AFTER") == 2
    line = {"metric": "f", "prompt": "another", "response": "AFTER"}
    (tmp_path / "samples" / "round_01.jsonl").write_text(json.dumps(line) + "\n")
    assert "AFTER" not in write_report(tmp_path).read_text()


def test_odd_values_do_not_cost_the_page(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    summary["rounds"][0]["loss"]["training_prompt_after"] = float("nan")
    summary["rounds"][0]["overlap"]["q"] = [0.0, float("nan")]
    page = make(tmp_path, summary, after="lone \ud800 surrogate $x_")
    assert "lone ? surrogate $x_" in page


def test_the_table_has_a_row_for_each_metric():
    lines = summary_table(SUMMARY).splitlines()
    assert lines[1].split() == ["forget:", "f", "0.900", "0.100"]
    assert lines[2].split() == ["keep:", "u", "0.800", "0.760", "(95%)"]


@pytest.mark.parametrize(
    ("said", "title"), [({"title": "keywords: Lily, <Tom>"}, "keywords: Lily, &lt;Tom&gt; <"), ({}, "f <")]
)
def test_the_title_says_what_is_forgotten(tmp_path, said, title):
    assert f"Forget: {title}" in make(tmp_path, SUMMARY | said)


def test_a_metric_that_did_not_fall_is_no_suppression(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    summary["rounds"][0]["metrics"]["f"] = 0.95
    page = make(tmp_path, summary)
    assert "suppresses under this protocol" not in page
    assert "the forget metric did not fall" in page


def test_what_is_still_named_under_another_label_stands_in_the_claim(tmp_path):
    summary = copy.deepcopy(SUMMARY) | {"forget_metric": "f1/person"}
    summary["base"] |= {"f1/person": 0.9, "leak/person": 1.0}
    summary["rounds"][0]["metrics"] |= {"f1/person": 0.1, "leak/person": 0.75}
    page = make(tmp_path, summary)
    assert "In 75 % of the answers the right one is still named" in page
    assert page.count("<td>leak/person") == 1


def test_one_strength_is_a_sentence_that_says_why_there_is_no_other(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    point = summary["rounds"][0]["trade_off"][0]
    summary["rounds"][0]["trade_off"] = [point]
    assert "the grid has no other" in make(tmp_path, summary)
    for changes, reason in (
        ({"forget": 0.0}, "climbed until a strength forgets all within the budgets"),
        ({"utility": 0.3, "retention": {"u": 0.3}, "within_budget": False}, "less than half of the budget"),
    ):
        summary["rounds"][0]["trade_off"] = [point | changes]
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        page = write_report(tmp_path).read_text()
        assert reason in page
        assert "Trade-off" not in page
        assert page.count("<svg") == 4
    assert "kept at worst 30 % (u)" in page


def test_strengths_of_the_retain_adapter_are_told_apart_only_where_there_are_several(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    page = make(tmp_path, summary)
    assert ">0.4 chosen</text>" in page and ">0.8</text>" in page
    assert "The lowest point right of the budget is chosen" in page and "one of the retain adapter" not in page
    entry = summary["rounds"][0]
    entry["trade_off"].append(entry["trade_off"][0] | {"eta_retain": 0.5, "utility": 0.97})
    entry["rule"] = {"name": "least_interference_at_target", "fallback": None}
    for fallback, said in (
        (None, "the one with the least loss on texts to keep"),
        ("no strength did", "No strength did."),
    ):
        entry["rule"]["fallback"] = fallback
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        page = write_report(tmp_path).read_text()
        for label in ("0.4 and 1 chosen", "0.4 and 0.5", "0.8 and 1"):
            assert f">{label}</text>" in page
        assert said in page and "and one of the retain adapter that is added" in page


def test_prompts_without_a_text_are_called_by_what_they_are(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    summary["rounds"][0]["search"] = [
        POINT | {"chosen_by": "initial", "text": ""},
        POINT | {"chosen_by": "initial", "text": "", "kind": "soft", "order": 1, "arm": 4},
        POINT | {"chosen_by": "initial", "text": "useless", "score": 1e-6, "order": 2, "arm": 5},
    ]
    page = make(tmp_path, summary)
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


def two_rounds(facts):
    """Two measured rounds, the second of which forgets all and keeps less."""
    summary = copy.deepcopy(SUMMARY) | {"selected_round": 2, "residual": {"round": 0.0}}
    first = summary["rounds"][0]
    second = copy.deepcopy(first) | {"round": 2, "metrics": {"f": 0.0, "u": 0.72}, "retention": {"u": 0.9}}
    for entry, share in ((first, 0.5), (second, 1.0)):
        entry["recall"] = {"round": share, "cumulative": share, "facts": facts}
    summary["rounds"].append(second)
    return summary


def test_recall_is_a_plot_only_where_there_is_something_to_plot(tmp_path):
    page = make(tmp_path, two_rounds(facts=10))
    assert "<h3>Recall</h3>" in page
    assert "the forget sets tell 100 % of the 10 facts" in page
    assert "<h3>Round by round</h3>" in page
    (tmp_path / "summary.json").write_text(json.dumps(two_rounds(facts=1)))
    page = write_report(tmp_path).read_text()
    assert "<h3>Recall</h3>" not in page
    assert "The one fact known to be there was told by the forget sets." in page
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
    summary = copy.deepcopy(SUMMARY)
    summary["rounds"][0]["update_cosine"] = {"q": [0.0004, -0.002], "v": [None, 0.0]}
    page = make(tmp_path, summary)
    assert "Direction of the two updates: below 0.005 in absolute value" in page
    assert page.count("<svg") == 4


def test_interference_is_shown_when_a_round_has_it(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    ratio, cosine = {"q": [0.4, 0.625], "v": [None, 0.2]}, {"q": [-0.5, 0.1], "v": [0.0, 0.0]}
    interference = {"retain_loss_increase": 0.0125, "per_forgetting": 0.25, "output_ratio": ratio}
    summary["rounds"][0]["interference"] = interference | {"gradient_cosine": cosine}
    page = make(tmp_path, summary)
    assert page.count("<svg") == 7
    assert "0.625</text>" in page
    assert "-0.500</text>" in page
    assert re.search(r"nats a token<td class=\"number\">0\.0125", page)


ATTACKS = {
    "relearn": {"steps": [0, 5, 10], "forget": [0.1, None, 0.6], "base": [0.9, 0.9, 0.95]},
    "quantize": {"8": {"f": 0.125, "u": 0.7, "degenerate": 0.0}, "4": {"f": 0.375, "u": 0.5}},
    "prompts": {"few_shot": {"f": 0.625}},
}


def rows_of(page):
    """The cells of every table row after the attacks' heading."""
    rest = page[page.index("Attacks: what comes back") : page.index("Round 1</h2>")]
    rows = (re.split(r"<td[^>]*>|</tr>", row)[1:-1] for row in re.findall(r"<tr><td>.*?</tr>", rest, re.DOTALL))
    return [[cell.strip() for cell in row] for row in rows]


def test_attacks_are_a_curve_and_tables_beside_the_base_and_the_released_model(tmp_path):
    page = make(tmp_path, SUMMARY, attacks=ATTACKS)
    assert page.count("<svg") == 6
    base, released = ["base model", "0.900", "0.800"], ["as released", "0.100", "0.760"]
    rounded = [["released, 8 bits", "0.125", "0.700"], ["released, 4 bits", "0.375", "0.500"]]
    assert rows_of(page) == [base, released, ["few shot", "0.625", "\u2013"], base, released, *rounded]
    assert "Tried below: training on true forget data, rounded weights, other prompts." in page
    assert "reading it out of the weights" in page


def test_attacks_may_lie_in_a_file_of_their_own_and_lack_a_part(tmp_path):
    page = make(tmp_path, SUMMARY)
    assert "Attacks" not in page
    assert "Not tested: whether training on true forget data or rounded weights or other prompts" in page
    attacks = {
        "round": 1,
        "protocol": {"missing": "a <model> that never knew", "seed": 3, "relearn": {"learning_rate": 0.001}},
        "relearn": {"steps": [0, 5], "forget": [0.1, 0.3], "base": [0.9, 0.95], "degenerate": [0.0, 0.25]},
        "prompts": {"openings": {"base": 0.875, "released": 0.0625}},
    }
    (tmp_path / "attacks.json").write_text(json.dumps(attacks))
    page = write_report(tmp_path).read_text()
    assert rows_of(page) == [["openings", "0.875", "0.062"]]
    assert "base model, trained the same" in page
    assert "Up to 25 % of the answers on the way were degenerate." in page
    assert "Missing: a &lt;model&gt; that never knew." in page
    assert "seed: 3\nrelearn:\n  learning_rate: 0.001\n" in page
    assert "Not tested: whether rounded weights would bring it back." in page
    (tmp_path / "attacks.json").write_text(json.dumps(attacks | {"round": 2}))  # of a round that is not the selected
    assert "Tried below" not in write_report(tmp_path).read_text()


def test_rounding_of_the_base_stands_beside_that_of_the_released_model(tmp_path):
    page = make(tmp_path, SUMMARY, attacks={"quantize": {"4": {"f": 0.25}}, "quantize_base": {"4": {"f": 0.875}}})
    assert [row[0] for row in rows_of(page)] == ["base model", "base model, 4 bits", "as released", "released, 4 bits"]
    assert [row[1] for row in rows_of(page)] == ["0.900", "0.875", "0.100", "0.250"]
    assert "<h3>Relearning</h3>" not in page


def test_a_surface_that_was_drawn_is_in_the_page(tmp_path):
    (tmp_path / "surface.svg").write_text("<svg>&</svg>")
    (tmp_path / "surface.json").write_text(json.dumps({"round": 1}))
    page = make(tmp_path, SUMMARY)
    assert f'src="data:image/svg+xml;base64,{base64.b64encode(b"<svg>&</svg>").decode()}"' in page
    (tmp_path / "surface.svg").unlink()
    assert "Loss over both strengths" not in write_report(tmp_path).read_text()


def test_a_broken_attacks_file_is_named(tmp_path):
    make(tmp_path, SUMMARY)
    (tmp_path / "attacks.json").write_text("{")
    with pytest.raises(ValueError, match=r"attacks\.json: is not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "attacks.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"attacks\.json: expected a JSON object, found list"):
        write_report(tmp_path)


def test_a_run_that_only_reveals_has_no_metrics_to_show(tmp_path):
    entry = {name: SUMMARY["rounds"][0][name] for name in ("round", "search", "revealed")}
    studied = SUMMARY | {"base": {}, "selected_round": 0, "rounds": [entry | {"accepted": None, "metrics": None}]}
    page = make(tmp_path, studied)
    assert "This run only searched and collected" in page
    assert "Metrics on test data" not in page


def test_a_folder_without_a_summary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no summary.json yet"):
        write_report(tmp_path)
