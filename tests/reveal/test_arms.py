"""The pool of arms: Sobol points, soft prompts of a known scale, and a deterministic list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.reveal import arms
from rr_jax.reveal.arms import (
    Arm,
    build_arms,
    expand_templates,
    read_instructions,
    sobol_points,
)

random_projection = jax.jit(arms.random_projection, static_argnums=(1, 2, 3))
soft_prompts = jax.jit(arms.soft_prompts, static_argnames=("scale", "scaling"))


def test_a_power_of_two_of_sobol_points_is_balanced_in_every_dimension():
    points = sobol_points(64, 7, seed=3)
    assert points.shape == (64, 7)
    assert points.dtype == np.float32
    for dimension in points.T:
        assert sorted(np.floor(dimension * 64).astype(int)) == list(range(64))


def test_sobol_points_follow_from_their_seed_and_any_count_works():
    np.testing.assert_array_equal(sobol_points(10, 4, seed=1), sobol_points(10, 4, seed=1))
    assert not np.array_equal(sobol_points(10, 4, seed=1), sobol_points(10, 4, seed=2))
    for n in (1, 2, 3, 5, 8, 100):  # warnings are errors here, so this also says that none is given
        points = sobol_points(n, 3, seed=0)
        assert points.shape == (n, 3)
        assert points.min() >= 0
        assert points.max() <= 1
    np.testing.assert_array_equal(sobol_points(5, 3, seed=0), sobol_points(8, 3, seed=0)[:5])
    assert len(np.unique(sobol_points(100, 3, seed=0), axis=0)) == 100


@pytest.mark.parametrize(
    ("n", "dim", "message"), [(0, 3, "0 Sobol points"), (4, 0, "dimension 0"), (4, 21202, "expected 1 to 21201")]
)
def test_sobol_points_that_do_not_exist_are_refused(n, dim, message):
    with pytest.raises(ValueError, match=message):
        sobol_points(n, dim, seed=0)


def test_projection_is_uniform_between_minus_one_and_one():
    projection = np.asarray(random_projection(jax.random.key(0), 10, 5, 64))
    assert projection.shape == (10, 5, 64)
    assert np.abs(projection).max() <= 1
    assert abs(projection.mean()) < 0.05
    assert abs(projection.std() - 3**-0.5) < 0.02
    np.testing.assert_array_equal(projection, random_projection(jax.random.key(0), 10, 5, 64))


@pytest.mark.parametrize("dim", [4, 10, 100])
def test_default_soft_prompts_are_centred_and_have_the_standard_deviation_of_the_embeddings(dim):
    points = sobol_points(256, dim, seed=0)
    projection = random_projection(jax.random.key(1), dim, 6, 48)
    prompts = np.asarray(soft_prompts(points, projection, 0.02))
    assert prompts.shape == (256, 6, 48)
    assert prompts.std() == pytest.approx(0.02, rel=0.05)
    # Nothing is shared: the mean over the arms is far smaller than what tells them apart.
    assert prompts.mean(axis=0).std() < 0.05 * prompts.std()
    np.testing.assert_allclose(soft_prompts(points, projection, 0.02, scale=2.5), 2.5 * prompts, rtol=1e-5, atol=1e-7)
    centre = np.full((1, dim), 0.5, np.float32)
    np.testing.assert_array_equal(soft_prompts(centre, projection, 0.02), 0)


def test_embedding_scaling_follows_its_formula():
    points = sobol_points(3, 5, seed=0)
    projection = np.asarray(random_projection(jax.random.key(1), 5, 2, 4))
    expected = 0.02 * 6 / np.sqrt(5) * np.einsum("nd,dpe->npe", points.astype(np.float64) - 0.5, projection)
    prompts = arms.soft_prompts(points, projection, jnp.float32(0.02))
    np.testing.assert_allclose(prompts, expected, rtol=1e-5, atol=1e-7)
    assert prompts.dtype == jnp.float32


@pytest.mark.parametrize("dim", [10, 100])
def test_instinct_scaling_is_the_bare_projection(dim):
    points = sobol_points(256, dim, seed=0)
    projection = random_projection(jax.random.key(1), dim, 6, 48)
    prompts = np.asarray(soft_prompts(points, projection, 0.02, scaling="instinct"))
    expected = (points.astype(np.float64) @ np.asarray(projection, np.float64).reshape(dim, -1)).reshape(256, 6, 48)
    np.testing.assert_allclose(prompts, expected, rtol=1e-5, atol=1e-5)
    assert prompts.std() == pytest.approx(dim**0.5 / 3, rel=0.1)
    # Three quarters of the variance is common to all arms.
    assert prompts.mean(axis=0).var() / prompts.var() == pytest.approx(0.75, abs=0.05)


def test_soft_prompts_that_do_not_fit_are_refused():
    projection = np.ones((5, 2, 4), np.float32)
    with pytest.raises(ValueError, match=r"points \(3, 4\) and projection \(5, 2, 4\) do not match"):
        arms.soft_prompts(np.ones((3, 4), np.float32), projection, 0.02)
    with pytest.raises(ValueError, match="scaling is 'normal', expected one of embedding, instinct"):
        arms.soft_prompts(np.ones((3, 5), np.float32), projection, 0.02, scaling="normal")


def test_the_pool_lists_texts_then_soft_arms_with_stems_in_turn():
    assert build_arms(["say it", ""], ["Once", "Then"], 3) == [
        Arm(0, "text", "say it", None),
        Arm(1, "text", "", None),
        Arm(2, "soft", "Once", 0, "Once"),
        Arm(3, "soft", "Then", 1, "Then"),
        Arm(4, "soft", "Once", 2, "Once"),
    ]
    assert build_arms(["say it"], [], 0) == [Arm(0, "text", "say it", None)]
    assert build_arms([], [""], 1) == [Arm(0, "soft", "", 0, "")]


@pytest.mark.parametrize(
    ("instructions", "stems", "num_soft", "message"),
    [
        ([], ["Once"], 0, "the pool has no arms"),
        (["a"], [], 2, "2 soft arms have no stem"),
        (["a"], ["Once"], -1, "num_soft is -1"),
        (["a", "b", "a"], [], 0, "instruction 2 repeats an earlier one: 'a'"),
    ],
)
def test_pools_that_make_no_sense_are_refused(instructions, stems, num_soft, message):
    with pytest.raises(ValueError, match=message):
        build_arms(instructions, stems, num_soft)


def test_templates_expand_to_every_combination():
    slots = {"who": ["Lily", "Tom"], "what": ["a cat", "a dog", "a sea"]}
    assert expand_templates(["Tell of {who}."], slots) == ["Tell of Lily.", "Tell of Tom."]
    both = expand_templates(["{who} and {what}; {who}!", "plain"], slots)
    assert both[:2] == ["Lily and a cat; Lily!", "Lily and a dog; Lily!"]
    assert len(both) == 7 and both[-1] == "plain"
    with pytest.raises(ValueError, match="'to {whom}' has a slot 'whom', but reveal.arms.slots no values"):
        expand_templates(["to {whom}"], slots)
    with pytest.raises(ValueError, match="'{who' is not a template"):
        expand_templates(["{who"], slots)


def test_instructions_of_a_file(tmp_path):
    (tmp_path / "arms.txt").write_text("Tell me.\n\n  Say it.  \n")
    assert read_instructions(tmp_path / "arms.txt") == ["Tell me.", "Say it."]
    (tmp_path / "empty.txt").write_text(" \n")
    for name, message in (("empty.txt", "holds no instruction"), ("missing.txt", "cannot be read")):
        with pytest.raises(ValueError, match=f"reveal.arms.texts: .*{name} {message}"):
            read_instructions(tmp_path / name)
