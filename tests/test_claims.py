"""Claims as records and tables: verdicts, numbers and differences in words, order, HTML."""

import pytest

from longrecipe.claims import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    Claim,
    Claims,
    at_least,
    at_most,
    difference,
    interval,
    judge,
    number,
)

NAN = (float("nan"),) * 3


def test_unknown_verdict_is_an_error_that_lists_the_allowed_ones():
    with pytest.raises(ValueError, match=r"'true'.*holds, does not hold, not settled, not measured"):
        Claim("a claim", "true")


@pytest.mark.parametrize(("holds", "verdict"), [(True, HOLDS), (False, FAILS), (None, NOT_MEASURED)])
def test_claim_without_interval_is_judged_by_yes_or_no(holds, verdict):
    assert judge(holds) == verdict


@pytest.mark.parametrize(
    ("triple", "verdict"),
    [
        ((15.0, 14.0, 16.9), HOLDS),
        ((15.0, 14.0, 17.0), HOLDS),
        ((15.0, 14.0, 17.1), OPEN),
        ((19.0, 17.1, 21.0), FAILS),
        (NAN, NOT_MEASURED),
    ],
)
def test_verdict_depends_on_the_whole_interval(triple, verdict):
    mean, low, high = triple
    assert at_most(triple, 17.0) == verdict
    assert at_least((-mean, -high, -low), -17.0) == verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.34, "2.3"), (-2.34, "-2.3"), (0.0, "0.0"), (-0.0, "0.0"), (-0.04, "-0.04"), (-0.001, "0.0"), (0.04, "0.0")],
)
def test_number_is_never_minus_zero(value, text):
    assert number(value) == text


def test_interval_is_empty_if_it_is_not_known():
    assert interval((1.0, -0.0, 2.0)) == "[0.0, 2.0]" and interval(NAN) == ""


@pytest.mark.parametrize(
    ("triple", "words", "between"),
    [
        ((6.8, 4.6, 9.0), "6.8 points above FLT", "[4.6, 9.0]"),
        ((-0.7, -1.3, -0.1), "0.7 points below FLT, within the margin of 2", "[0.1, 1.3]"),
        ((-1.9, -2.3, -1.5), "1.9 points below FLT", "[1.5, 2.3]"),
        ((-0.02, -1.0, 1.0), "-0.02 points, no clear difference from FLT", "[-1.0, 1.0]"),
        (NAN, "", ""),
    ],
)
def test_difference_says_above_below_or_unclear(triple, words, between):
    assert difference(triple, "FLT", margin=2) == (words, between)


@pytest.fixture
def mixed():
    return Claims(
        [
            Claim("a < b", FAILS, main=False),
            Claim("main", HOLDS, "1.0", "[0.5, 1.5]"),
            Claim("c", FAILS, main=False),
            Claim("other main", OPEN, "2.0"),
        ]
    )


def test_main_claims_come_first_in_their_order(mixed):
    assert [claim.text for claim in mixed] == ["main", "other main", "a < b", "c"]
    more = mixed + Claims([Claim("another", HOLDS)])
    assert [claim.text for claim in more] == ["main", "other main", "another", "a < b", "c"]


def test_text_has_aligned_columns_and_no_unused_ones(mixed):
    assert repr(mixed).splitlines() == [
        "✓ holds          main        1.0  [0.5, 1.5]",
        "? not settled    other main  2.0",
        "✗ does not hold  a < b",
        "✗ does not hold  c",
    ]
    assert "label" not in mixed._repr_html_()
    assert "label" in Claims([Claim("x", HOLDS, label="quoted")])._repr_html_()


def test_html_folds_all_but_main_claims(mixed):
    shown, folded = mixed._repr_html_().split("<details>")
    assert "<summary>2 more claims: 2 do not hold</summary>" in folded
    assert ">main<" in shown and ">main<" not in folded
    assert "a &lt; b" in folded and "a &lt; b" not in shown


def test_html_folds_nothing_without_main_claims():
    assert "<details>" not in Claims([Claim("x", HOLDS, main=False)])._repr_html_()


def test_counts_are_plain_english(mixed):
    assert mixed.counts() == "4 claims: 1 holds, 2 do not hold, 1 not settled"
    assert Claims([Claim("x", NOT_MEASURED)]).counts() == "1 claim: 1 not measured"
