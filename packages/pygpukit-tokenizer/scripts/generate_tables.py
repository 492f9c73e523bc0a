r"""Generate the Unicode tables of ``pygpukit.tokenizer.unicode`` from the reference tokenizer.

Run ``python scripts/generate_tables.py`` with the PyPI package ``tokenizers`` installed. Each table
answers a question put to that package ("which code points does ``\\p{Lu}`` match?"), never to the
interpreter's ``unicodedata``, so the tables say what the reference does and not what some version
of Unicode says. The reference mixes several versions: Oniguruma's, the Rust standard library's,
the ``regex`` crate's, and that of its normalization crate.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import pairwise

from graphemes import grapheme_tables
from tables import Span, base36, boundaries, literal, unicode_list, wrapped, write
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

SURROGATES = 0x800
ALL = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SCRIPTS = """
Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali
Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian
Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret
Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian
Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo
Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian
Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki
Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam
Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive
Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari
New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic
Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya
Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic
Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo
Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut
Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi
Yi Zanabazar_Square Garay Gurung_Khema Kirat_Rai Ol_Onal Sunuwar Todhri Tulu_Tigalari
""".split()


def code_point(index: int) -> int:
    """The code point at ``index`` of ALL, which leaves the surrogates out."""
    return index if index < 0xD800 else index + SURROGATES


def spans_of(indices: Iterable[Span]) -> list[Span]:
    """Spans of ALL as spans of code points; the surrogates are never members."""
    spans = []
    for start, end in indices:
        if start < 0xD800 < end:
            spans += [(start, 0xD800), (0xE000, code_point(end))]
        else:
            spans.append((code_point(start), code_point(end - 1) + 1))
    return spans


def oniguruma(pattern: str) -> list[Span]:
    """The code points that an Oniguruma pattern of one character matches."""
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    return spans_of(span for _, span in split.pre_tokenize_str(ALL))


def rust_isolated(pre_tokenizer: pre_tokenizers.PreTokenizer) -> list[Span]:
    """Code points that a pre-tokenizer isolates between two letters."""
    text = "".join("xx" + c for c in ALL) + "xx"
    pieces = {piece for piece, _ in pre_tokenizer.pre_tokenize_str(text) if len(piece) == 1}
    return join(ord(piece) for piece in pieces)


def join(code_points: Iterable[int]) -> list[Span]:
    """Sorted spans of the given code points."""
    spans: list[list[int]] = []
    for cp in sorted(code_points):
        if spans and spans[-1][1] == cp:
            spans[-1][1] = cp + 1
        else:
            spans.append([cp, cp + 1])
    return [(a, b) for a, b in spans]


def members(spans: Iterable[Span]) -> set[int]:
    return {cp for a, b in spans for cp in range(a, b)}


def rust_word() -> list[Span]:
    r"""``\w`` of the regex crate: a single_word token doesn't match beside it."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken("<A>", single_word=True)])
    found = set()
    for chunk_start in range(0, len(ALL), 50_000):
        chunk = ALL[chunk_start : chunk_start + 50_000]
        text = "".join(f" <A>{c}" for c in chunk)
        matched = {
            end
            for (_, end), token in zip(*offsets_and_tokens(tokenizer, text), strict=True)
            if token == "<A>"
        }
        found |= {ord(c) for i, c in enumerate(chunk) if 5 * i + 4 not in matched}
    return join(found)


def offsets_and_tokens(tokenizer: Tokenizer, text: str) -> tuple[list[Span], list[str]]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return encoding.offsets, encoding.tokens


def category_runs() -> str:
    """Run-length coded general categories: a letter for the category, a base-36 length."""
    runs = sorted(
        (start, end, LETTERS[i])
        for i, category in enumerate(CATEGORIES)
        for start, end in oniguruma(rf"\p{{{category}}}")
    )
    text, position = [], 0
    for start, end, letter in runs:
        if start != position:
            assert (position, start) == (0xD800, 0xE000), (position, start)
            text.append(f"{LETTERS[len(CATEGORIES)]}{base36(start - position)}")
        text.append(f"{letter}{base36(end - start)}")
        position = end
    return " ".join(text)


def category_tables() -> None:
    brackets = "alnum alpha lower upper graph print".split()
    word = oniguruma(r"[\w]")
    bare = members(oniguruma(r"\w")) - members(word)
    # What oniguruma/properties.py states as formulas holds.
    assert bare == set(map(ord, "\xb2\xb3\xb9\xbc\xbd\xbe")), bare
    assert oniguruma("[[:word:]]") == word
    assert oniguruma("[[:space:]]") == oniguruma(r"\s")
    for name, formula in (
        ("cntrl", r"\p{Cc}"),
        ("digit", r"\p{Nd}"),
        ("blank", r"[\t\p{Zs}]"),
        ("punct", r"[\p{P}\p{S}]"),
        ("xdigit", "[0-9A-Fa-f]"),
        ("ascii", r"[\x00-\x7f]"),
    ):
        difference = members(oniguruma(f"[[:{name}:]]")) ^ members(oniguruma(formula))
        assert not difference, (name, sorted(difference)[:9])
    parts = [
        f'CATEGORIES = "{" ".join([*CATEGORIES, "Cs"])}".split()\n',
        literal("RUNS", category_runs(), "General category of every code point, run by run."),
        literal("WORD", boundaries(word), r"\w"),
        literal("SPACE", boundaries(oniguruma(r"\s")), r"\s"),
    ]
    parts += [
        literal(name.upper(), boundaries(oniguruma(f"[[:{name}:]]")), f"[[:{name}:]]")
        for name in brackets
    ]
    write("_oniguruma.py", "Oniguruma's character properties.", parts)


def script_tables() -> None:
    entries = []
    for script in sorted(SCRIPTS):
        try:
            spans = oniguruma(rf"\p{{{script}}}")
        except Exception:
            print("no script", script)
            continue
        entries.append(
            f'    "{script.lower().replace("_", "")}": (\n' + wrapped(spans) + "    ),\n"
        )
    write(
        "_scripts.py",
        "Oniguruma's scripts, by their names in lower case without underscores.",
        ["SCRIPTS = {\n" + "".join(entries) + "}\n"],
    )


def fold_tables() -> None:
    """Which single characters ``(?i:c)`` matches, and which folds are longer than a character."""
    text = "".join(
        chr(cp)
        for cp in sorted(members(oniguruma(r"[\p{L}\p{M}\p{Nl}\p{So}&&[^\p{Han}\p{Hangul}]]")))
    )
    cased = sorted(members(oniguruma(r"[[:upper:][:lower:]\p{Lt}\p{M}]")))
    classes = set()
    for cp in cased:
        split = pre_tokenizers.Split(Regex(f"(?i:\\x{{{cp:x}}})"), "removed", invert=True)
        hits = {piece for piece, _ in split.pre_tokenize_str(text) if len(piece) == 1}
        if len(hits) > 1:
            classes.add("".join(sorted(hits)))
    multiple = set()
    for cp in range(0x110000):
        folded = chr(cp).casefold() if not 0xD800 <= cp < 0xE000 else "x"
        if len(folded) > 1:
            split = pre_tokenizers.Split(Regex(f"(?i:\\x{{{cp:x}}})"), "removed", invert=True)
            if [piece for piece, _ in split.pre_tokenize_str(folded)] == [folded]:
                multiple.add(chr(cp) + folded)
    write(
        "_folding.py",
        "Oniguruma's case folding.",
        [
            unicode_list("CLASSES", classes, "Characters that match one another under (?i)."),
            unicode_list(
                "MULTIPLE", multiple, "A character and the texts that it matches under (?i)."
            ),
        ],
    )


def normalization_tables() -> None:
    """Canonical decompositions, combining classes and compositions, Hangul excepted."""
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    hangul = range(0xAC00, 0xD7A4)
    decomposed = {c: nfd(c) for c in ALL if ord(c) not in hangul and nfd(c) != c}
    nonstarters = [
        c
        for c in ALL
        if nfd(c + "\u0334") != nfd(c) + "\u0334" or nfd("\u0345" + c) != "\u0345" + nfd(c)
    ]
    classes = combining_classes([c for c in nonstarters if c not in decomposed], nfd)
    lines = [c + d for c, d in decomposed.items()]
    excluded = [c for c in decomposed if nfc(c) != c]
    write(
        "_normalization.py",
        "Canonical decompositions and combining classes of the reference's NFC and NFD.",
        [
            unicode_list("DECOMPOSITIONS", lines, "A character and its full decomposition."),
            unicode_list("EXCLUDED", excluded, "Characters that NFC never composes."),
            unicode_list(
                "ORDER", classes, "Characters of one combining class, in the order of the classes."
            ),
        ],
    )


def combining_classes(marks: list[str], nfd: Callable[[str], str]) -> list[str]:
    """Group combining marks by class and order the groups; only the order matters to NFC."""
    groups: list[list[str]] = []
    for mark in marks:
        low, high = 0, len(groups)
        while low < high:
            middle = (low + high) // 2
            other = groups[middle][0]
            if nfd(mark + other) != mark + other:
                low = middle + 1  # swapped: the mark's class is above the group's
            elif nfd(other + mark) != other + mark:
                high = middle
            else:
                groups[middle].append(mark)
                break
        else:
            groups.insert(low, [mark])
    return [chr(0x100 + i) + "".join(group) for i, group in enumerate(groups)]


def rust_tables() -> None:
    write(
        "_rust.py",
        "Character classes of the Rust standard library and the regex crate.",
        [
            literal(
                "NUMERIC",
                boundaries(rust_isolated(pre_tokenizers.Digits(True))),
                "char::is_numeric",
            ),
            literal(
                "PUNCTUATION",
                boundaries(rust_isolated(pre_tokenizers.Punctuation("isolated"))),
                "ASCII punctuation and category P.",
            ),
            literal("WORD", boundaries(rust_word()), r"\w of the regex crate."),
        ],
    )


def each(normalize: Callable[[str], str]) -> dict[str, str]:
    """What a normalizer makes of every character on its own."""
    mark = "\u2581"  # which nothing becomes
    characters = [c for c in ALL if c != mark]
    return dict(zip(characters, normalize(mark.join(characters)).split(mark), strict=True))


def case_tables() -> None:
    """``char::to_lowercase``, as runs of characters at the same distance from their lower case."""
    lower = {c: to for c, to in each(normalizers.Lowercase().normalize_str).items() if to != c}
    runs: list[list[int]] = []
    for char in sorted(c for c, to in lower.items() if len(to) == 1):
        code, delta = ord(char), ord(lower[char]) - ord(char)
        if runs and runs[-1][3] == delta:
            start, count, stride, _ = runs[-1]
            step = code - start - (count - 1) * stride
            if step <= 2 and step == (stride if count > 1 else step):
                runs[-1] = [start, count + 1, step, delta]
                continue
        runs.append([code, 1, 1, delta])
    numbers = (base36(n) if n >= 0 else f"-{base36(-n)}" for run in runs for n in run)
    write(
        "_case.py",
        "Lower case of the Rust standard library.",
        [
            literal(
                "RUNS", " ".join(numbers), "First character, count, stride, distance to lower case."
            ),
            unicode_list(
                "SPECIAL",
                [c + to for c, to in lower.items() if len(to) > 1],
                "A character and its lower case of several.",
            ),
        ],
    )


def mark_tables() -> None:
    """What StripAccents and BertNormalizer remove."""
    accents = each(normalizers.StripAccents().normalize_str)
    bert = normalizers.BertNormalizer(False, False, True, False)
    nfd = normalizers.NFD().normalize_str
    nonspacing = each(bert.normalize_str)
    cleaned = each(normalizers.BertNormalizer(True, False, False, False).normalize_str)
    write(
        "_removed.py",
        "Characters that StripAccents and BertNormalizer remove.",
        [
            literal(
                "COMBINING_MARKS",
                boundaries(join(ord(c) for c, to in accents.items() if not to)),
                "By StripAccents.",
            ),
            literal(
                "NONSPACING_MARKS",
                boundaries(join(ord(c) for c, to in nonspacing.items() if not to and nfd(c) == c)),
                "By BertNormalizer's strip_accents.",
            ),
            literal(
                "CONTROLS",
                boundaries(join(ord(c) for c, to in cleaned.items() if not to)),
                "By BertNormalizer's clean_text.",
            ),
        ],
    )


def compatibility_tables() -> None:
    nfd, nfkd = each(normalizers.NFD().normalize_str), each(normalizers.NFKD().normalize_str)
    write(
        "_compatibility.py",
        "Compatibility decompositions of the reference's NFKC and NFKD.",
        [
            unicode_list(
                "DECOMPOSITIONS",
                # None has a space but those of space-like characters; U+0001 stands for it.
                [(c + to).replace(" ", "\1") for c, to in nfkd.items() if to != nfd[c]],
                "A character and its full decomposition, U+0001 for a space.",
            )
        ],
    )


def unicode_script_tables() -> None:
    """The classes of characters that UnicodeScripts tells apart."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "removed"),
            pre_tokenizers.UnicodeScripts(),
        ]
    )

    def pieces(texts: list[str]) -> list[int]:
        """How many pieces each text is cut into."""
        counts = [0] * len(texts)
        starts, position = [], 0
        for text in texts:
            starts.append(position)
            position += len(text) + 1
        for _, (start, _) in split.pre_tokenize_str("\n".join(texts)):
            counts[bisect_right(starts, start) - 1] += 1
        return counts

    # The separator can't be asked about; it is classed like the tab, another control character.
    characters = [c for c in ALL if c != "\n"]
    # A character of no script leaves no piece of its own.
    scripted = [c for c, n in zip(characters, pieces(characters), strict=True) if n]
    changes = pieces([a + b for a, b in pairwise(scripted)])
    firsts = [scripted[0]]
    firsts += [c for c, n in zip(scripted[1:], changes, strict=True) if n > 1]
    classes: dict[str, int] = {}
    of_first: dict[str, int] = {}
    for first in firsts:
        found = [i for i, n in enumerate(pieces([rep + first for rep in classes])) if n == 1]
        if not found:
            classes[first] = len(classes)
        of_first[first] = found[0] if found else classes[first]
    spans: list[list[tuple[int, int]]] = [[] for _ in classes]
    members_of: list[list[int]] = [[] for _ in classes]
    current = 0
    for c in scripted:
        current = of_first.get(c, current)
        members_of[current].append(ord(c))
        if c == "\t":
            members_of[current].append(ord("\n"))
    spans = [join(codes) for codes in members_of]
    body = "".join(f"    (\n{wrapped(s)}    ),\n" for s in spans)
    write(
        "_unicode_scripts.py",
        "The sets of characters that UnicodeScripts keeps together.",
        [f"SCRIPTS = (\n{body})\n"],
    )


if __name__ == "__main__":
    category_tables()
    rust_tables()
    case_tables()
    mark_tables()
    normalization_tables()
    compatibility_tables()
    fold_tables()
    script_tables()
    unicode_script_tables()
    grapheme_tables()
