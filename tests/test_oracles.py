"""What better images to be conditioned on are worth."""

import pytest

from app import assemble
from app.cli import main
from app.evaluation.simulation import simulation
from app.settings.options import ConfigError
from scripts import oracles
from tests.test_adaptive import photograph  # noqa: F401  (a fixture)

NAME = "adaptive-foe-mcp-denoise-grey-25"


def test_the_first_columns_are_what_evaluate_prints_and_the_clean_image_is_best(capsys, tmp_path, photograph):  # noqa: F811
    rows = oracles.table([NAME], str(photograph), 64, tmp_path).splitlines()
    found = dict(zip(oracles.HEADS, map(float, rows[-1].split("|")[2:-1]), strict=True))
    assert main(["evaluate", NAME, "--images", str(photograph), "--quiet"]) == 0
    assert f"{found['reconstruction']:.2f}" in capsys.readouterr().out
    assert found["z = clean"] > max(found["reconstruction"], found["fed back 3"])
    assert len(set(found.values())) > 3
    model, config = assemble.load(NAME, [])
    model.regularizer.updates = 2
    chain = oracles.qualities(simulation(config, model, tmp_path), photograph, 0, False, 64)
    two = dict(zip(oracles.HEADS, chain, strict=True))
    assert two["guide"] == pytest.approx(found["guide"], abs=0.01)
    assert two["reconstruction"] == pytest.approx(found["fed back 1"], abs=0.01)


def test_a_model_without_a_guide_is_refused(photograph, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="has no guide"):
        oracles.table(["tv-denoise-grey-25"], str(photograph), 64, tmp_path)
