"""The table of the six degradations is complete and consistent, and people's spellings find their way."""

import pytest

from gendeg.degradations import DEGRADATIONS, get_degradation

every_degradation = pytest.mark.parametrize("degradation", DEGRADATIONS.values(), ids=DEGRADATIONS)


def test_the_six():
    assert set(DEGRADATIONS) == {"haze", "rain", "snow", "motion_blur", "raindrop", "low_light"}
    assert all(name == degradation.name for name, degradation in DEGRADATIONS.items())
    assert len({degradation.label for degradation in DEGRADATIONS.values()}) == 6
    assert len({degradation.phrase for degradation in DEGRADATIONS.values()}) == 6


@every_degradation
def test_intensities_are_ordered(degradation):
    (mu_low, mu_high), (sigma_low, sigma_high) = degradation.mu_range, degradation.sigma_range
    mu, sigma = degradation.typical
    assert 0 <= mu_low < mu < mu_high
    assert 0 <= sigma_low < sigma < sigma_high


@every_degradation
def test_real_intensities_are_accepted(degradation):
    low, high = degradation.accepted_mu
    assert low <= degradation.mu_range[0] < degradation.mu_range[1] <= high


@every_degradation
def test_spellings(degradation):
    for spelling in (
        degradation.name,
        degradation.label,
        degradation.name.upper(),
        degradation.name.replace("_", "-"),
        f" {degradation.label} ",
    ):
        assert get_degradation(spelling) is degradation


@pytest.mark.parametrize("name", ["fog", "", None, 3])
def test_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match=r"Unknown degradation .* Choose one of: haze, rain, snow, .*low_light"):
        get_degradation(name)


def test_mixed_data_sets_change_the_phrase():
    assert DEGRADATIONS["rain"].phrase_for("ORD") == "in rainy and hazy conditions"
    assert DEGRADATIONS["snow"].phrase_for("CSD") == "in snowy and hazy conditions"
    assert DEGRADATIONS["rain"].phrase_for("Rain13K") == "in rainy conditions"
    assert DEGRADATIONS["snow"].phrase_for() == "in snowy conditions"
    assert DEGRADATIONS["haze"].phrase_for("ORD") == "in hazy conditions"
