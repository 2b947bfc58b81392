"""Strict configuration."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import InputError
from pipelines.config import Config, describe, load_config
from pipelines.grid import read_grid
from pipelines.workspace import packaged


def test_file_over_defaults_and_overrides_over_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\ntrain:\n  steps: 7\n  learning_rate: 1e-4\n")
    config = load_config(file, ["train.steps=9", "recommend.models=[clip, itemknn]"])
    assert (config.seed, config.train.steps, config.train.learning_rate) == (3, 9, 1e-4)
    assert config.recommend.models == ("clip", "itemknn")
    assert config.generate == Config().generate


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.step=3", "unknown key 'train.step'; did you mean 'train.steps'"),
        ("beams=2", "did you mean 'generate.beams'"),
        ("train=3", "train is 3: expected keys below it"),
        ("train.steps=many", "train.steps is 'many'"),
        ("recommend.test_days=0", "recommend.test_days is 0"),
        ("recommend.models=[clip, foo]", "'foo'"),
        ("train.steps", "not of the form"),
        ("train.steps=[1", "not YAML"),
        ("seed=1.5", "seed is 1.5"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert expected in str(caught.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\nb: 2")
    with pytest.raises(InputError, match="line 2"):
        load_config(bad)
    bad.write_text("- 1\n")
    with pytest.raises(InputError, match="expected `section:`"):
        load_config(bad)
    bad.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="not YAML"):
        load_config(bad)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused_in_our_own_words(text: str) -> None:
    try:
        load_config(None, [text])
    except InputError as error:
        assert str(error)


def test_every_setting_says_what_it_means() -> None:
    assert [path for path, _, meaning in describe() if not meaning] == []


def test_every_preset_loads() -> None:
    presets = sorted(packaged("configs").glob("*.yaml"))
    assert presets
    for preset in presets:
        if preset.stem.endswith("-grid"):
            assert len(read_grid(preset)) > 1, f"{preset.name} compares nothing"
            continue
        assert load_config(preset) != Config(), f"{preset.name} changes nothing"
