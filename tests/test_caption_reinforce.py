"""REINFORCE: the gradient is the policy's, rewards are as defined, runs stop and go on."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from caption import InputError
from caption.adapt import AdaptConfig
from caption.captioners import IGNORED, load_captioner
from caption.monitor import MonitorConfig, Point, alarm, repetition
from caption.records import CaptionExample, CaptionSet
from caption.reinforce import ReinforceConfig, advantages, policy_loss, reinforce
from caption.rewards import build_rewards, weighted_sum
from tests.tiny import FAMILIES, tiny_captioner
from tests.tiny_blip import draw_photos, make_blip

QUICK = ReinforceConfig(
    steps=6,
    batch_size=4,
    samples=3,
    max_tokens=8,
    learning_rate=3e-3,
    evaluate_every=2,
    min_count=1,
    adapt=AdaptConfig(method="decoder"),
    monitor=MonitorConfig(action="warn"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CaptionSet]:
    folder = tmp_path_factory.mktemp("reinforce")
    examples = [
        CaptionExample(id, path, (text,), category=text.split()[2])
        for id, path, text in draw_photos(folder / "photos")
    ]
    return make_blip(folder / "blip"), CaptionSet("drawn", tuple(examples))


def test_advantages_by_hand() -> None:
    rewards = np.array([[1.0, 0.0, 2.0], [3.0, 3.0, 3.0]])
    gain, base = advantages(rewards, "mean")
    assert gain.tolist() == [[0, -1, 1], [0, 0, 0]]
    assert base.tolist() == [[1, 1, 1], [3, 3, 3]]
    gain, base = advantages(rewards, "leave-one-out")
    assert base.tolist() == [[1, 1.5, 0.5], [3, 3, 3]]
    assert gain.tolist() == [[0, -1.5, 1.5], [0, 0, 0]]
    gain, _ = advantages(rewards, "greedy", np.array([0.5, 4.0]))
    assert gain.tolist() == [[0.5, -0.5, 1.5], [-1, -1, -1]]
    with pytest.raises(InputError, match="draw at least 2"):
        advantages(rewards[:, :1], "mean")


def test_gradient_is_the_policy_gradient_of_a_categorical() -> None:
    # One token of three. d/dz_j of -A log p_c is A (p_j - [j = c]).
    z = torch.tensor([0.2, -0.4, 1.0], requires_grad=True)
    labels = torch.tensor([[2], [0]])
    gain = torch.tensor([1.5, -0.5])
    policy_loss(z.expand(2, 1, 3), labels, gain).backward()
    p = torch.softmax(z.detach(), 0)
    wanted = (1.5 * (p - torch.eye(3)[2]) - 0.5 * (p - torch.eye(3)[0])) / 2
    assert torch.allclose(z.grad, wanted, atol=1e-6)


def test_expected_gradient_is_that_of_the_expected_reward() -> None:
    # Over all captions weighted by their probability, with a baseline: exact, no sampling.
    z = torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    p = torch.softmax(z, 0)
    (wanted,) = torch.autograd.grad((p * reward).sum(), z)
    gain = p.detach() * (reward - 0.7)
    loss = policy_loss(z.expand(3, 1, 3), torch.tensor([[0], [1], [2]]), gain, tokens=1)
    loss.backward()
    assert torch.allclose(-z.grad, wanted, atol=1e-9)


def test_tokens_after_the_end_get_no_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=rng, requires_grad=True)
    labels = torch.tensor([[1, 3, IGNORED, IGNORED], [2, 2, 4, 3]])
    policy_loss(logits, labels, torch.tensor([1.0, -2.0])).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert touched.tolist() == [[True, True, False, False], [True] * 4]


def test_drawn_captions_are_marked_through_their_end(made: tuple[Path, CaptionSet]) -> None:
    captioner = load_captioner(made[0])
    pixels = torch.zeros(2, 3, 32, 16)
    features = captioner.encode_images(pixels).detach()
    drawn = captioner.sample(features, n_samples=8, max_new_tokens=60, temperature=1.5, seed=1)
    rows = [s.row for own in drawn for s in own]
    batch = captioner.text_batch(rows)
    end = captioner.tokenizer.sep_token_id
    for row, labels in zip(rows, batch.labels.tolist(), strict=True):
        counted = [label for label in labels if label != IGNORED]
        assert (counted[-1] == end) == (not row.cut)
        assert end not in counted[:-1]
    assert any(not row.cut for row in rows)
    assert len({s.text for own in drawn for s in own}) > 8


def test_rewards_by_hand() -> None:
    examples = [
        CaptionExample("1", None, ("a red dress with sleeves",), category="Dress"),
        CaptionExample("2", None, ("a blue shirt with buttons",), category="Shirt"),
    ]
    rewards = build_rewards(["als", "sls", "cider-d"], examples, examples, min_count=1)
    captions = ["a red dress", "a red shirt", "", "a blue shirt with buttons"]
    items = [0, 0, 1, 1]
    # "red" and "dress" are both in the reference; of "red" and "shirt" one is.
    assert rewards["als"](captions, items).tolist() == [1.0, 0.5, 0.0, 1.0]
    assert rewards["sls"](captions, items).tolist()[2:] == [0.0, 1.0]
    assert rewards["sls"](["a dress", "a shirt"], [0, 0]).tolist() == [1.0, 0.0]
    cider = rewards["cider-d"](captions, items)
    assert cider[2] == 0
    assert cider[3] == max(cider) > 0
    parts = {"als": np.array([1.0, 0.5]), "sls": np.array([0.0, 1.0])}
    assert weighted_sum(parts, {"als": 2.0, "sls": 0.5}).tolist() == [2.0, 1.5]


def test_given_attributes_come_before_found_ones() -> None:
    example = CaptionExample("1", None, ("a red dress",), attributes=("Red", "Floor-length"))
    reward = build_rewards(["als"], [example], [example])["als"]
    assert reward(["a red floor-length dress", "a dress"], [0, 0]).tolist() == [1.0, 0.0]


def test_truth_marks_right_silent_and_contradicting() -> None:
    articles = pl.DataFrame(
        {
            "article_id": ["7"],
            "product_type_name": ["Dress"],
            "colour_group_name": ["Red"],
            "perceived_colour_master_name": ["Red"],
            "graphical_appearance_name": ["Solid"],
        }
    )
    example = CaptionExample("7", None, ("a dress",))
    truth = build_rewards(["truth"], [example], [example], articles=articles)["truth"]
    values = truth(["a red dress", "a dress", "blue trousers", "something nice"], [0, 0, 0, 0])
    assert values.tolist() == pytest.approx([2 / 3, 1 / 3, -2 / 3, 0.0])


def test_missing_sources_are_named() -> None:
    example = CaptionExample("1", None, ("a dress",))
    for names, said in (
        (["beauty"], "unknown reward 'beauty'"),
        (["truth"], "needs the table of articles"),
        (["sls"], "category"),
        (["als"], "stands in 10 training texts"),
    ):
        with pytest.raises(InputError, match=said):
            build_rewards(names, [example], [example])


def test_reward_rises_and_the_run_repeats(made: tuple[Path, CaptionSet], tmp_path: Path) -> None:
    """A policy that is paid for words of the training texts learns to say them."""
    model, captions = made
    config = replace(
        QUICK, steps=40, batch_size=8, samples=6, mle_weight=0.0, evaluate_every=20,
        rewards={"sls": 1.0}, learning_rate=1e-2,
    )  # fmt: skip
    garments = of_one_category(captions)
    result = reinforce(load_captioner(model), garments, garments, tmp_path / "a", config)
    drawn = [p.reward for p in result.history if p.split == "train"]
    assert drawn[-1] > drawn[0]
    assert result.best_reward >= result.first_reward
    again = reinforce(load_captioner(model), garments, garments, tmp_path / "b", config)
    assert again.history == result.history
    left, right = (load_captioner(tmp_path / x / "model") for x in "ab")
    assert left.fingerprint() == right.fingerprint()


@pytest.mark.parametrize("baseline", ["mean", "leave-one-out", "greedy"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    made: tuple[Path, CaptionSet], tmp_path: Path, baseline: str
) -> None:
    model, captions = made
    config = replace(QUICK, baseline=baseline)
    whole = reinforce(load_captioner(model), captions, captions, tmp_path / "a", config)

    def kill(what: str, done: int, total: int) -> None:
        if what.startswith("reinforcing") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reinforce(load_captioner(model), captions, captions, tmp_path / "b", config, progress=kill)
    assert (tmp_path / "b" / "checkpoint.safetensors").is_file()
    rest = reinforce(load_captioner(model), captions, captions, tmp_path / "b", config)
    assert rest.resumed_from == 4
    assert rest.history == whole.history
    first, second = (tmp_path / x / "history.csv" for x in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in sorted((tmp_path / "b").iterdir())] == ["history.csv", "model"]
    with first.open() as file:
        rows = list(csv.DictReader(file))
    assert [r["step"] for r in rows if r["split"] == "validation"] == ["0", "2", "4", "6"]
    assert {"reward:als", "reward:sls", "length", "distinct"} <= set(rows[0])


def test_an_update_in_parts_is_the_same(made: tuple[Path, CaptionSet], tmp_path: Path) -> None:
    model, captions = made
    # Without drawing: parts draw with seeds of their own.
    config = replace(QUICK, policy_weight=0.0, steps=2)
    curves = [
        reinforce(
            load_captioner(model),
            captions,
            captions,
            tmp_path / str(n),
            replace(config, accumulate=n, adapt=AdaptConfig(method="decoder")),
        ).history
        for n in (1, 2)
    ]
    assert curves[0][-1].length == curves[1][-1].length
    assert curves[0][-1].reward == pytest.approx(curves[1][-1].reward, abs=1e-6)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_weights(
    made: tuple[Path, CaptionSet], tmp_path: Path
) -> None:
    model, captions = made
    captioner = load_captioner(model)
    before = captioner.fingerprint()
    inner = captioner.loss
    calls = 0

    def broken(*args: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return inner(*args) * (math.nan if calls == 2 else 1.0)  # type: ignore[arg-type]

    captioner.loss = broken  # type: ignore[method-assign]
    config = replace(QUICK, evaluate_every=6)
    result = reinforce(captioner, captions, captions, tmp_path, config)
    assert result.steps == 1
    assert result.stopped is not None
    assert "step 2" in result.stopped
    assert load_captioner(tmp_path / "model").fingerprint() == before


def test_monitor_says_which_bound() -> None:
    start = Point(0, "validation", 1.0, None, None, {"clipscore": 0.8}, 10.0, 0.0, 0.9)
    bounds = MonitorConfig()
    assert alarm(start, start, bounds) is None
    for change, said in (
        ({"length": 5.0}, "5.0 words, 10.0 at the start"),
        ({"length": 17.0}, "17.0 words"),
        ({"repetition": 0.06}, "repeat 6.0%"),
        ({"distinct": 0.4}, "40.0% of the captions differ"),
        ({"parts": {"clipscore": 0.7}}, "CLIPScore fell to 0.700"),
    ):
        found = alarm(start._replace(**change), start, bounds)  # type: ignore[arg-type]
        assert found is not None
        assert said in found
    assert repetition("a red a red a") == 0.5
    assert repetition("dress") == 0.0


def test_a_hacked_reward_stops_the_run_and_its_weights_are_not_kept(
    made: tuple[Path, CaptionSet], tmp_path: Path
) -> None:
    model, captions = made
    config = replace(
        QUICK,
        steps=40,
        samples=6,
        mle_weight=0.0,
        learning_rate=3e-2,
        rewards={"sls": 1.0},
        monitor=MonitorConfig(action="stop", distinct=0.9, shortest=0.9, longest=1.1),
    )
    garments = of_one_category(captions)
    result = reinforce(load_captioner(model), garments, garments, tmp_path, config)
    assert result.stopped is not None
    assert result.steps < 40
    assert result.best_step < result.steps
    kept = [p for p in result.history if p.split == "validation" and p.step == result.best_step]
    assert kept[0].reward == result.best_reward


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_reinforced(
    family: str, made: tuple[Path, CaptionSet], tmp_path: Path
) -> None:
    folder = tiny_captioner(family, tmp_path / "tiny")
    config = replace(QUICK, steps=2, batch_size=2, samples=2, adapt=AdaptConfig())
    captioner = load_captioner(folder, device="cpu")
    before = captioner.fingerprint()
    result = reinforce(captioner, made[1], made[1], tmp_path / "out", config)
    assert result.steps == 2
    assert result.trainable < result.total
    kept = load_captioner(tmp_path / "out" / "model", device="cpu").fingerprint()
    assert (kept == before) == (result.best_step == 0)


def test_what_cannot_be_saved_whole_is_refused(
    made: tuple[Path, CaptionSet], tmp_path: Path
) -> None:
    config = replace(QUICK, adapt=AdaptConfig(method="prompt"))
    with pytest.raises(InputError, match=r"adapt\.method is 'prompt'"):
        reinforce(load_captioner(made[0]), made[1], made[1], tmp_path, config)


def test_settings_that_cannot_work(made: tuple[Path, CaptionSet], tmp_path: Path) -> None:
    model, captions = made
    for change, said in (
        ({"samples": 1}, "draw at least 2"),
        ({"rewards": {}}, "none given"),
        ({"policy_weight": 0.0, "mle_weight": 0.0}, "nothing to learn"),
        ({"temperature": 0.0}, "positive"),
        ({"steps": 0}, "steps=0"),
    ):
        config = replace(QUICK, **change)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            reinforce(load_captioner(model), captions, captions, tmp_path, config)


def of_one_category(captions: CaptionSet) -> CaptionSet:
    """Every word of the training texts names the one category: a reward for saying any of them."""
    examples = tuple(replace(e, category="garment") for e in captions.examples)
    return CaptionSet(captions.name, examples)
