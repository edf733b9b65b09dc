"""A needle whose question shares no word with its fact, so that searching for the words of the question does not help.

The idea is that of NoLiMa (Modarressi et al. 2025, arXiv 2502.05167); people, places and sentences are our own. The
fact names a famous place, the question its country, so the model must know the country of the place.
"""

from dataclasses import replace

import numpy as np

from longrecipe.data.facts import hide
from longrecipe.evaluate.questions import Document, question
from longrecipe.evaluate.wording import Wording, of_one_length

OPENING = " Some people are mentioned in the following text. Remember what it says about them.\n"
FACT = " {person} lives next to {place}."
QUESTION = "\nWho has a home in {country}? The one with a home in {country} is"
# Famous places and their countries.
PLACES = {
    "the Eiffel Tower": "France",
    "the Colosseum": "Italy",
    "the pyramids of Giza": "Egypt",
    "the Taj Mahal": "India",
    "the ruins of Machu Picchu": "Peru",
    "the Kremlin": "Russia",
    "the Brandenburg Gate": "Germany",
    "the Alhambra": "Spain",
    "Mount Fuji": "Japan",
    "the Forbidden City": "China",
    "the temple of Angkor Wat": "Cambodia",
    "the Sydney Opera House": "Australia",
    "Buckingham Palace": "England",
    "the Acropolis": "Greece",
    "the Copacabana beach": "Brazil",
    "the Hagia Sophia": "Turkey",
}
PEOPLE = (
    "Aaron Alice Amanda Andrew Anna Arthur Barbara Brian Carol Charles Christine Daniel David Diana Edward Elizabeth "
    "Emma Eric Frank Grace Hannah Helen Henry Jack James Jane John Julia Karen Kate Laura Linda Lucy Margaret Maria "
    "Martin Mary Michael Nancy Nicole Oliver Oscar Patrick Paul Peter Rachel Robert Ruth Sarah Simon Sophia Susan "
    "Thomas Victor Walter"
)


def association(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, *, n_facts: int = 4
) -> Document:
    """n_facts people who live next to places in different countries; the question asks who has a home in one of them.

    A model that finds the facts but does not know the places guesses one of n_facts names. Raises ValueError for the
    wording of the mini models, which know no places, and if the facts do not fit into the length.
    """
    if wording.kind == "planted":
        raise ValueError(
            "task 'association' asks for knowledge of the world, which the mini models do not have: use a model of "
            "scale small or paper, or leave the task out."
        )
    # Names of one token count, so that the prompts of different documents are equally long.
    people = of_one_length([f" {person}" for person in PEOPLE.split()], wording.encode)
    countries = of_one_length([f" {country}" for country in PLACES.values()], wording.encode)
    who, where = (rng.choice(each, size=n_facts, replace=False) for each in (people, countries))
    place_of = {f" {country}": place for place, country in PLACES.items()}
    facts = [
        wording.encode(FACT.format(person=person.strip(), place=place_of[country]))
        for person, country in zip(who, where, strict=True)
    ]
    asked = question(wording, "association", QUESTION.format(country=where[0].strip()), [who[0]])
    # A longer continuation could list all names.
    asked = replace(asked, n_tokens=len(asked.answers[0]) + 1)
    ids, depths = hide(source, facts, length - asked.size, rng=rng, head=wording.encode(OPENING), ends=wording.ends)
    return Document(ids, (replace(asked, depth=depths[0]),))
