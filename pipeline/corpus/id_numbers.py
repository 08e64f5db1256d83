"""Identity, bank and card numbers in a text, recognised by their layout and their check digits.

In: a text, its digits ASCII's. Out: the places of such numbers, from left to right, none overlapping. What always
holds: a number is taken only as its own country writes it, where its check digits (or the date in it) are right, and
where no letter or digit adjoins it. A figure that happens to be written so passes for one about one time in ten; only
social security numbers have nothing to check.

    payment cards       14 to 16 or 19 digits, whole or in their groups; issuer, Luhn
    bank accounts       IBAN in capitals, whole or in fours; length of its country, ISO 7064 mod 97-10
    Brazil              CPF, ddd.ddd.ddd-dd; both check digits
    China               resident identity number, 18 characters; date of birth, ISO 7064 mod 11-2
    France              NIR, 15 digits, whole or in groups; key mod 97
    Germany             tax number of a person, 11 digits, whole or in groups; repeated digit, ISO 7064 mod 11,10
    India               Aadhaar, in fours; Verhoeff
    Italy               codice fiscale; letters and digits in their places
    Korea               resident registration number, dddddd-ddddddd; date of birth
    Spain               DNI and NIE; letter mod 23
    United Kingdom      NHS number, ddd ddd dddd; mod 11. National Insurance number; letters and digits in their places
    United States       social security number, ddd-dd-dddd or with spaces; no number that is never issued

Example:
    list(digit_numbers("SSN 219-09-9999."))  # [(4, 15)]
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from pipeline.corpus.characters import DASHES, SPACES, WORD
from pipeline.corpus.long_numbers import Span, long_numbers

Check = Callable[[str], bool]

# Characters of an IBAN by country: SWIFT's IBAN registry.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip

_VERHOEFF = (  # the dihedral group's products, and the permutation of each place
    ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
     "5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
    ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258"),
)  # fmt: skip


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _payment_card(digits: str) -> bool:
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    issued = {
        14: two in (36, 38) or 300 <= int(digits[:3]) <= 305,  # Diners Club
        15: two in (34, 37),  # American Express
        # Visa, Mastercard, Discover, JCB, UnionPay
        16: two // 10 == 4 or 51 <= two <= 55 or 2221 <= four <= 2720 or two in (35, 62, 64, 65) or four == 6011,
        19: two in (40, 62),
    }  # fmt: skip
    return issued[length] and _luhn(digits)


def _social_security(digits: str) -> bool:
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _nhs(digits: str) -> bool:
    return sum(int(digit) * weight for digit, weight in zip(digits, range(10, 0, -1), strict=True)) % 11 == 0


def _aadhaar(digits: str) -> bool:
    products, permutations = _VERHOEFF
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(products[check][int(permutations[place % 8][int(digit)])])
    return digits[0] in "23456789" and check == 0


def _german_tax(digits: str) -> bool:
    counts = sorted(digits[:10].count(digit) for digit in set(digits[:10]))
    if digits[0] == "0" or counts[-1] not in (2, 3) or counts[-2] != 1:  # one digit twice or thrice
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def _french(digits: str) -> bool:
    born = digits[0] in "12" and (
        1 <= int(digits[3:5]) <= 12 or int(digits[3:5]) >= 20
    )  # 20 on: month unknown
    return born and 97 - int(digits[:13]) % 97 == int(digits[13:])


def _brazilian(digits: str) -> bool:
    def check(length: int) -> int:
        total = sum(int(digit) * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        return total * 10 % 11 % 10

    return len(set(digits)) > 1 and (check(9), check(10)) == (int(digits[9]), int(digits[10]))


def _is_day(month_and_day: str) -> bool:
    return 1 <= int(month_and_day[:2]) <= 12 and 1 <= int(month_and_day[2:]) <= 31


def _chinese(characters: str) -> bool:
    year, last = characters[6:10], characters[17]
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(characters[:17]))
    born = "1850" <= year <= "2099" and _is_day(characters[10:14])
    return born and (total + (10 if last == "X" else int(last))) % 11 == 1


def _korean(digits: str) -> bool:
    return _is_day(digits[2:6])


def _spanish(characters: str) -> bool:
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(characters[:8]) % 23] == characters[8]


# How a number is written (d: a digit, L: a capital or x), and what its characters without separators must pass.
_LAYOUTS: Mapping[str, Check] = {
    **dict.fromkeys(("d" * 16, "dddd dddd dddd dddd", "dddd-dddd-dddd-dddd"), _payment_card),
    **dict.fromkeys(("dddd dddddd ddddd", "dddd-dddddd-ddddd"), _payment_card),
    **dict.fromkeys(("d" * 14, "dddd dddddd dddd", "dddd-dddddd-dddd"), _payment_card),
    **dict.fromkeys(("d" * 19, "dddd dddd dddd dddd ddd"), _payment_card),
    "d" * 15: lambda digits: _payment_card(digits) or _french(digits),
    "d dd dd dd ddd ddd dd": _french,
    **dict.fromkeys(("ddd-dd-dddd", "ddd dd dddd"), _social_security),
    "ddd ddd dddd": _nhs,
    **dict.fromkeys(("dddd dddd dddd", "dddd-dddd-dddd"), _aadhaar),
    **dict.fromkeys(("d" * 11, "dd ddd ddd ddd"), _german_tax),
    "ddd.ddd.ddd-dd": _brazilian,
    **dict.fromkeys(("d" * 18, "d" * 17 + "L"), lambda found: found[17] in "0123456789X" and _chinese(found)),
    "dddddd-ddddddd": _korean,
    **dict.fromkeys(("ddddddddL", "dddddddd-L"), _spanish),
}

_CLASSES = {"d": r"\d", "L": "[A-Zx]", " ": f"[{SPACES}]", "-": f"[{DASHES}]", ".": r"\."}
_SEPARATORS = re.compile(f"[{SPACES}.{DASHES}]")
_ENDS = rf"(?![{WORD}_]|[-.]\d)"
_BEYOND = (
    4  # characters behind a run of digits that decide: a letter that belongs to it, what must not follow
)
_BEGINS = rf"(?<![{WORD}_])(?<!\d[-.,/])"


def _pattern(layout: str) -> str:
    runs = ((_CLASSES[character], len(list(run))) for character, run in groupby(layout))
    return "".join(f"{characters}{{{count}}}" if count > 1 else characters for characters, count in runs)


_KINDS = [
    (re.compile(_pattern(layout) + _ENDS), check)
    for layout, check in sorted(_LAYOUTS.items(), key=lambda each: -len(each[0]))
]
_SOME = re.compile(f"{_BEGINS}(?:{'|'.join(map(_pattern, _LAYOUTS))}){_ENDS}")


def digit_numbers(text: str) -> Iterator[Span]:
    """Where numbers that begin with a digit stand."""
    for run in long_numbers(text):
        at = run.start()
        while found := _SOME.search(text, at, run.end() + _BEYOND):
            end = _digits_end(text, found.start())
            if end is not None:
                yield found.start(), end
            at = end or found.start() + 1


def _digits_end(text: str, start: int) -> int | None:
    # The longest first: three digits behind a card may make it look like a longer one.
    for pattern, check in _KINDS:
        if (found := pattern.match(text, start)) and check(_characters(found[0])):
            return found.end()
    return None


def _characters(written: str) -> str:
    return _SEPARATORS.sub("", written).upper()


# A capital stands before what must not precede it: a pattern that begins with a class of characters is searched for
# several times faster than one that begins by looking back.
_LETTERED = re.compile(rf"[A-Z](?<![{WORD}_][A-Z])(?:[A-Z](?:[A-Z]{{4}}\d|[ \u00a0]?\d)\d|-?\d{{7}})")
_NATIONAL_INSURANCE = re.compile(
    r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:[ \u00a0]?\d\d){3}[ \u00a0]?[A-D]" + _ENDS
)
_CODICE_FISCALE = re.compile(r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]" + _ENDS)
_NIE = re.compile(r"([XYZ])-?(\d{7})-?([A-Z])" + _ENDS)
_CONTINUES = re.compile(f"[{WORD}_]")
_IBAN_CHARACTERS = re.compile(r"[ \u00a0]?([A-Z0-9])")


def lettered_numbers(text: str) -> Iterator[Span]:
    """Where numbers that begin with a letter stand."""
    at = 0
    while found := _LETTERED.search(text, at):
        start = found.start()
        end = _lettered_end(text, start)
        if end is not None:
            yield start, end
        at = end or start + 1


def _lettered_end(text: str, start: int) -> int | None:
    if found := _NATIONAL_INSURANCE.match(text, start) or _CODICE_FISCALE.match(text, start):
        return found.end()
    if found := _NIE.match(text, start):
        first = "XYZ".index(found[1])
        return found.end() if _spanish(f"{first}{found[2]}{found[3]}") else None
    return _iban_end(text, start)


def _iban_end(text: str, start: int) -> int | None:
    characters, at = "", start
    length = _IBAN_LENGTHS.get(text[start : start + 2], 0)
    while len(characters) < length and (found := _IBAN_CHARACTERS.match(text, at)):
        characters, at = characters + found[1], found.end()
    if not length or len(characters) < length or _CONTINUES.match(text, at):
        return None
    number = "".join(str(int(each, 36)) for each in characters[4:] + characters[:4])
    return at if int(number) % 97 == 1 else None
