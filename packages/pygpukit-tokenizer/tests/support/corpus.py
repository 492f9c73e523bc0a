"""Texts for the tests: a small corpus to train on, and pieces that tokenizers stumble over."""

from __future__ import annotations

CORPUS = """
The quick brown fox jumps over the lazy dog; the dogs don't mind. They're used to it, aren't they?
In 1984 there were 3,141,592 reasons, 2.71828 excuses and 10 answers -- all of them wrong!
def merge(ids, pairs): return [pairs[pair] for pair in zip(ids, ids[1:])]  # not quite
    if x == 0:\n        return None\n\n\n\tprint("Hello, world!", end="")\n
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Übermut, Straße, naïve café déjà vu.
Съешь же ещё этих мягких французских булок, да выпей чаю. Το γρήγορο καφέ αλεπού.
素早い茶色の狐がのろまな犬を飛び越える。ひらがなと。敏捷的棕色狐狸跳过了懒狗。빠른 갈색 여우.
سلام שלום עולם สวัสดีชาวโลก नमस्ते दुनिया 👩‍👩‍👧‍👦 👍🏽 🇩🇪 😀😀 ❤️ ½ ² ① Ⅷ ﬁ
"""

PIECES = (
    *(" ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "\x00", "\x1f", "\x7f", "\x85", "\xa0", "\xad"),
    *("\u200b", "\u200d", "\u200e", "\u2028", "\u3000", "\ufeff", "\ufffd", "\ufffe", "\U000e0001"),
    *("\ud7ff", "\ue000", "\U0010ffff", "\u0301", "\u0345\u0301", "e\u0301", "e\u0301\u0301", "é"),
    *("ǆ", "ǅ", "ſ", "ß", "ẞ", "İ", "ı", "ﬁ", "Σς", "K", "Å", "½", "²", "٣", "१", "①", "Ⅷ", "𝟘"),
    *(
        "漢字",
        "ひらがな",
        "カタカナ",
        "ー",
        "한국어",
        "\u1100\u1161\u11a8",
        "각",
        "㌀",
        "ｆｕｌｌ",
        "ﷺ",
    ),
    *(
        "שלום",
        "مرحبا",
        "ไทย",
        "हिन्दी",
        "क्षि",
        "𝔘𝔫",
        "𐐷",
        "𠀀",
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "🇩🇪",
        "😀",
        "©\u200d",
        "❤️",
    ),
    *(
        "'s",
        "'S",
        "'ll",
        "'LL",
        "'re",
        "’s",
        "don't",
        "a",
        "ab",
        "the",
        " the",
        "Hello",
        "ing",
        "ABC",
    ),
    *(
        "1",
        "12",
        "123",
        "1234567",
        "3.14",
        ".",
        "...",
        "!!",
        "-",
        "--",
        "_",
        "/",
        "://",
        "#",
        "<",
        ">",
    ),
    *("def f(x):\n    return x", "{}[]()", "\\", '"', "`", "▁", "▁▁", "Ġ", "##", "</w>", "<0x41>"),
    *("<s>", "</s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "<|end|>", "aaaaaaaa", " " * 9),
)
"""Pieces that random texts are put together from."""
