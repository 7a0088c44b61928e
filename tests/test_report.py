"""The page of a run: whole, self-contained, escaped, and built from incomplete runs too."""

import copy
import json
import re

import pytest

from rr_jax.report import summary_table, write_report

POINT = {
    "order": 0,
    "arm": 3,
    "kind": "text",
    "text": "say <b>it</b>",
    "score": 0.6,
    "relevance": 0.7,
    "diversity": 0.5,
}
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
                {"eta_forget": 0.4, "forget": 0.1, "utility": 0.95, "degenerate": 0.0, "within_budget": True},
                {"eta_forget": 0.8, "forget": 0.0, "utility": 0.5, "degenerate": 0.0, "within_budget": False},
            ],
            "search": [POINT | {"chosen_by": "initial"}, POINT | {"order": 1, "kind": "soft", "chosen_by": "bandit"}],
            "overlap": {"q": [0.1, 0.2], "v": [0.0, 0.3]},
            "update_cosine": {"q": [0.1, -0.2], "v": [0.0, 0.3]},
            "loss": {"revealing_prompt": 0.5, "training_prompt_before": 2.0},
        }
    ],
}


NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def make(folder, summary, after="safe"):
    (folder / "samples").mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("seed: 0\n")
    for name, text in (("base", "<script>alert(1)</script>"), ("round_01", after)):
        lines = [{"metric": m, "prompt": "p & q", "response": text} for m in ("f", "u")]
        (folder / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return write_report(folder).read_text()


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
    assert "suppresses this under the protocol" in page


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
    assert re.search(r"80 %</b><span class=\"muted\">ppl", page)
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


def test_a_folder_without_a_summary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no summary.json yet"):
        write_report(tmp_path)
