"""What is redacted: mail addresses, numbers by layout and check digits, a user's own; and what is left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.redaction import parse_redactions, redact
from pipeline.errors import InputError

OWN = ("email", "id-number", "phone")

ADDRESSES = [
    "ann@example.com", "j.o'neil+tag@mail.example.co.uk", "j.müller@größe.de", "a_b@x-y.org", "_x@example.com",
    "иван@пример.рф",
]  # fmt: skip

PHONES = [
    "+49 (0)30 123 456", "+1 (415) 555-2671", "+14155552671", "+91 98765 43210", "0049 30 123456", "004930123456",
    "(415) 555-2671", "415-555-2671", "415.555.2671", "415 555 2671", "1-800-555-0199", "(030) 12345",
    "(030) 123 45 67", "030 123456", "0171/1234567", "089 / 123 456", "020 7946 0958", "01 23 45 67 89",
    "01.23.45.67.89", "02-123-4567", "010-1234-5678", "01701234567", "13812345678", "138 1234 5678",
    "+९१ ९८७६५ ४३२१०", "٠٣٠ ١٢٣٤٥٦",
]  # fmt: skip

# As those who issue them publish examples, or with check digits computed by their rules.
NUMBERS = [
    "219-09-9999", "078 05 1120",
    "4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005", "378282246310005", "30569309025904",
    "6011000990139424", "6222 0212 3456 7890 128",
    "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606",
    "NO93 8601 1117 947", "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    "943 476 5919", "AB 12 34 56 C", "AB123456C",
    "36 574 261 809", "36574261809", "2 95 10 99 126 111 93", "295109912611193", "RCCMNL83S18D969H",
    "54362315-K", "54362315K", "X-2482300W", "390.533.447-05", "971013-9019902", "360426199101010071",
    "11010519491231002X", "2341 2341 2346",
]  # fmt: skip

ORDINARY = [
    "He was born on 01.02.1990 (or 01/02/1990, 1990-02-01) and died in 2003, aged 13.",
    "Das geschah am 05.06.2007 12 Uhr und vom 01/02/2003 - 03/04/2004 wieder.",
    "See John 3:16, pp. 123-1456, vols. 12-14, 1939–1945, and § 20000101.",
    "ISBN 0-306-40615-2, ISBN 978-0-306-40615-7, ISBN-10: 0812345678, ISSN 0378-5955.",
    "It had 1,234,567,890 people, 12 345 678 901 trees and 3.14159265358979 lakes; 123456789 in all.",
    "192.168.100.200 answered at 12:30:11.123 on port 8080; 555-2671 didn't.",
    "Ask @ann, or a@b; it is 4 @ 2.50, and x@1.2 at 10:00.",
    "QUARTER1 2019, BOEING 747 400, AB12, X-12, Figure 12-34-56, 0.123456789, -12345678.",
]


def redacted(text: str, *asked: str) -> str:
    return redact(text, parse_redactions(asked)).text


@pytest.mark.parametrize(
    ("name", "samples"), [("email", ADDRESSES), ("phone", PHONES), ("id-number", NUMBERS)]
)
@pytest.mark.parametrize("around", ["Ask %s, or", "(%s)", "Tel.:%s or 5 of", "号码%s的", "%s", "a\n%s\nb"])
def test_it_is_found_whole_wherever_it_stands(name: str, samples: list[str], around: str) -> None:
    kept = [sample for sample in samples if redacted(around % sample, name) != around % f"[{name}]"]
    assert kept == []


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_figures_are_left_alone(text: str) -> None:
    assert redacted(text, *OWN) == text


@pytest.mark.parametrize(
    "number", [number for number in NUMBERS if not number.startswith(("219", "078", "971"))]
)
def test_a_number_whose_check_digits_are_wrong_is_left_alone(number: str) -> None:
    letters = "RCCMNL" in number or number.startswith("AB")  # which have a layout only
    at = 2 if letters else -2
    digit = number[at] if number[at].isdigit() else number[at := at - 1]
    wrong = number[:at] + ("x" if letters else str((int(digit) + 5) % 10)) + number[at:][1:]
    assert redacted(wrong, "id-number") == wrong


def test_a_social_security_number_that_is_never_issued_is_left_alone() -> None:
    text = "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000, 9713 13-9019902, 971313-9019902"
    assert redacted(text, "id-number") == text


def test_a_number_is_found_beside_other_numbers() -> None:
    text = "12 4111 1111 1111 1111 123, 219-09-9999 2003, DE89 3704 0044 0532 0130 00 AND 030 123456 12/2003"
    assert redacted(text, *OWN) == "12 [id-number] 123, [id-number] 2003, [id-number] AND [phone]/2003"


def test_the_users_own_pattern_goes_first_and_is_counted() -> None:
    asked = parse_redactions(["phone", r"MRN=\bMRN:? *\d{6,10}\b", "case=^Case .*$"])
    assert [each.name for each in asked] == ["case", "mrn", "phone"]
    found = redact("MRN: 0301234567, tel. 030 1234567\nCase of B. v. C.\nThe end.", asked)
    assert found.text == "[mrn], tel. [phone]\n[case]\nThe end."
    assert found.found == {"mrn": (1, 15), "phone": (1, 11), "case": (1, 16)}
    assert list(found.found) == ["case", "mrn", "phone"]


def test_an_accent_in_a_pattern_matches_however_it_was_typed() -> None:
    assert redacted("M. André", "name=Andre\u0301") == "M. [name]"


def test_a_pattern_never_stands_in_settings() -> None:
    (one,), (other,) = parse_redactions(["name=Schmidt|Meyer"]), parse_redactions(["name=Schmidt"])
    assert one.setting.startswith("regex ")
    assert one.setting != other.setting
    assert "Schmidt" not in one.setting


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["emial"], "unknown redaction 'emial'; the nearest known is email"),
        ([""], "unknown redaction ''"),
        (["email", "EMAIL"], "redaction email is named twice"),
        (["email=x"], "redaction email is bertpipe's own"),
        (["a b=x"], "redaction 'a b': a name has"),
        (["7a=x"], "redaction '7a': a name has"),
        ([f"{'a' * 33}=x"], "a name has up to 32 letters"),
        (["mask=x"], r"would put \[mask\] into the text"),
        (["UNK=x"], r"would put \[unk\] into the text"),
        (["unused12=x"], r"would put \[unused12\] into the text"),
        (["mrn=(x"], "regular expression of redaction mrn can't be read: missing \\)"),
        (["mrn=x{2,1}"], "can't be read"),
        (["mrn="], "redaction mrn matches the empty string"),
        (["mrn=x*"], "redaction mrn matches the empty string"),
        (["mrn=^"], "redaction mrn matches the empty string"),
        ([r"mrn=\b"], "redaction mrn matches the empty string"),
        (["mrn=[a-z]+"], r"redaction mrn matches in \[mrn\]"),
        (["email", "mrn=mail"], r"redaction mrn matches in \[email\]"),
        (["phone", "a-415-555-2671=x"], r"redaction phone matches in \[a-415-555-2671\]"),
    ],
)
def test_what_cannot_be_redacted_is_refused_in_one_line(asked: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        parse_redactions(asked)
    assert "\n" not in str(refused.value)


def test_a_pattern_that_matches_nothing_only_in_places_changes_nothing() -> None:
    assert redacted("a x b", "mrn=(?=x)|xy") == "a x b"


PIECES = [
    *ADDRESSES, *PHONES, *NUMBERS, "@", ".", "-", " ", "/", "(", ")", "+", "0", "1", "49", "415", "2003", "example.com",
    "ann", "\n", "字", "é", "[email]", "ISBN ", "X",
]  # fmt: skip


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(PIECES), max_size=15).map("".join)
    | st.text(alphabet="ab@.-+0123456789 ()/\n字٣", max_size=60)
)
def test_a_redacted_text_holds_no_match_any_more_and_one_without_is_untouched(text: str) -> None:
    redactions = parse_redactions(OWN)
    found = redact(text, redactions)
    assert (found.text == text) == (not found.found)
    again = redact(found.text, redactions)
    assert (again.text, again.found) == (found.text, {})
    for redaction in redactions:
        assert redact(found.text, [redaction]).found == {}
