import pytest

from longrecipe import models
from longrecipe.experiments.quoted import read
from longrecipe.families import FAMILIES, OF_THE_PAPER
from longrecipe.models.rope import rope_theta


@pytest.mark.parametrize("name", FAMILIES)
def test_mini_and_paper_model_share_class_and_rope_base(name):
    family = FAMILIES[name]
    mini, full = family.mini_config(), family.paper_config()
    assert type(mini) is type(full) is family.config
    assert rope_theta(mini) == rope_theta(full) == family.rope_theta
    assert models.config_of(name, "paper").to_dict() == full.to_dict()


def test_families_have_different_colours_and_names_in_the_papers_tables():
    assert len({family.colour for family in FAMILIES.values()}) == len(FAMILIES)
    assert {FAMILIES[name].table1 for name in OF_THE_PAPER} == set(read("table1_methods")["family"])
    assert OF_THE_PAPER == ("llama3", "mistral", "qwen2") and set(FAMILIES) - {*OF_THE_PAPER} == {"qwen3"}
    assert {family.table4 for family in FAMILIES.values()} >= set(read("table4_resources")["model"])
