"""The map by module and layer: what it draws for which number."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from rr_jax.reporting.heatmap import heatmap, largest

SVG = "{http://www.w3.org/2000/svg}"


def parts(values, label="a map"):
    root = ET.fromstring(heatmap(values, label))
    return root, root.findall(f"{SVG}rect"), [text.text for text in root.findall(f"{SVG}text")]


def test_a_cell_is_as_deep_as_its_number_and_its_colour_says_the_sign():
    root, cells, texts = parts({"q": [0.2, -0.1], "mlp/up": [0.0, math.nan]}, 'of "q" & <up>')
    assert root.get("aria-label") == 'of "q" & <up>'
    assert [cell.get("fill") for cell in cells] == ["var(--forget)", "var(--keep)", "var(--forget)"]
    assert [float(cell.get("fill-opacity")) for cell in cells] == pytest.approx([0.75, 0.375, 0.0])
    assert texts == ["q", "0.200", "-0.100", "mlp/up", "0", "1", "2", "layer (full colour: 0.2)"]


def test_noise_keeps_a_pale_colour():
    _, cells, _ = parts({"q": [0.001]})
    assert float(cells[0].get("fill-opacity")) == pytest.approx(0.75 * 0.001 / 0.05)


def test_many_layers_have_no_numbers_and_few_ticks_and_all_lies_within_the_picture():
    root, cells, texts = parts({"q": [0.1] * 80, "a long name of a module": [0.3] * 80})
    assert texts == ["q", "a long name of a module", *map(str, range(1, 81, 5)), "layer (full colour: 0.3)"]
    _, _, width, height = map(float, root.get("viewBox").split())
    for cell in cells:
        assert float(cell.get("x")) > 0 and float(cell.get("x")) + float(cell.get("width")) <= width + 0.01
        assert float(cell.get("y")) > 0 and float(cell.get("y")) + float(cell.get("height")) <= height
    assert not re.search(r"#[0-9a-f]{6}", ET.tostring(root, encoding="unicode"))  # colours are the page's


def test_the_largest_number_is_finite():
    assert largest({"q": [0.1, -0.4], "k": [math.nan, math.inf]}) == 0.4
    assert largest({"q": [math.nan]}) == largest({}) == 0.0
