"""The inputs of the parity tests: texts, and families of strings that strain a tokenizer."""

from __future__ import annotations

TEXTS_ENGLISH = [
    "a",
    "What is the capital of France?",
    "Paris is the capital and most populous city of France.",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reverse a list in Python without changing the original?",
    "The mitochondrion is an organelle that produces most of a cell's chemical energy.",
    "Photosynthesis converts light energy into chemical energy stored in glucose.",
    "She sells seashells by the seashore, doesn't she?",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "To be, or not to be: that is the question.",
    "The stock fell 3.7% to $142.56 after the company missed its Q3 2023 forecast.",
    "Turn left at the lights, go 200 m, then take the second exit (A40) towards Oxford.",
    "IMPORTANT: DO NOT UNPLUG THE DEVICE WHILE THE UPDATE IS RUNNING!!!",
    "Recipe: 250 g flour, 2 eggs, 1/2 l milk, a pinch of salt; fry on both sides until golden.",
    "The treaty, signed in 1648, ended the Thirty Years' War and redrew the map of Europe.",
    "An antidisestablishmentarianist's floccinaucinihilipilification of ultramicroscopic dust.",
    "Please find attached the minutes of Tuesday's meeting; comments by Friday noon, please.",
    "Dr. Smith (M.D., Ph.D.) prescribed 5 mg b.i.d. for the patient's hypertension.",
    "A naïve café owner in Zürich told the El Niño façade story over crème brûlée.",
    "wow that movie was sooooo goood i cant even lol 10/10 would watch again",
]

TEXTS_CHINESE = [
    "今天天气很好，我们去公园散步吧。",
    "人工智能正在改变我们的生活方式。",
    "向量数据库用于存储和检索高维向量，广泛应用于搜索和推荐系统。",
    "北京是中华人民共和国的首都，也是全国的政治和文化中心。",
    "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？",
    "请问去火车站怎么走？大概需要二十分钟。",
    "Python 3.12 版本提高了性能，并改进了错误信息。",
]

TEXTS_ARABIC = [
    "مرحبا بالعالم",
    "ما هي عاصمة فرنسا؟",
    "اللغة العربية من أكثر اللغات انتشارا في العالم.",
    "السَّلَامُ عَلَيْكُمْ وَرَحْمَةُ اللهِ",
    "اشتريت كتابين بمبلغ ٤٥ ريالا من المكتبة يوم الخميس.",
]

TEXTS_CODE = [
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "for (size_t i = 0; i < n; ++i) { out[i] = alpha * x[i] + y[i]; }",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name HAVING COUNT(*) > 1;",
    '{"id": 42, "tags": ["a", "b"], "nested": {"ok": true, "value": null}}',
    "#!/bin/sh\nset -eu\nfind . -name '*.tmp' -mtime +7 -print0 | xargs -0 rm -f --\n",
    "<div class=\"card\"><a href='https://example.org/?q=1&p=2'>Read more &raquo;</a></div>",
    "template <typename T> std::vector<T> take(const std::vector<T>& v, std::size_t n);",
    "ERROR 2024-05-17T12:31:07.123Z worker-3 Connection to 10.0.0.17:5432 timed out after 30000ms",
]

TEXTS_EMOJI = [
    "😀",
    "I ❤️ pizza 🍕 and 🍦!",
    "Family: 👨‍👩‍👧‍👦, flag: 🇫🇷, thumbs: 👍🏽, keycap: 7️⃣",
    "🚀🚀🚀 to the moon 🌕",
    "Great job 👏👏 see you tomorrow 🙂",
]

TEXTS_OTHER = [
    "Москва — столица России, крупнейший по численности населения город страны.",
    "東京は日本の首都であり、世界最大の都市圏の一つです。",
    "대한민국의 수도는 서울이며 한강이 도시를 가로지른다.",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก วันนี้อากาศดีมาก",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "Zażółć gęślą jaźń; příliš žluťoučký kůň úpěl ďábelské ódy.",
    "שלום עולם, מה שלומך היום?",
]

_SENTENCE = (
    "A vector index answers one question: which of the stored rows lie closest to this one? "
    "Exact search compares the query with every row, which costs time that grows with the "
    "collection. Approximate methods walk a graph or visit a few cells and miss a little for a "
    "great gain in speed. "
)


def _long(n_words: int, start: int) -> str:
    words = _SENTENCE.split() * 20
    return " ".join(words[start : start + n_words])


TEXTS_LONG = [
    _long(n, s) for n, s in ((120, 0), (210, 7), (260, 3), (300, 11), (380, 5), (410, 1))
] + [
    "向量检索系统先把文本转换成向量，再在索引中查找最近的邻居。" * 14,
    "The river 🚣 runs through the old town; las calles están llenas de música. " * 18,
]

TEXTS = [
    *TEXTS_ENGLISH,
    *TEXTS_CHINESE,
    *TEXTS_ARABIC,
    *TEXTS_CODE,
    *TEXTS_EMOJI,
    *TEXTS_OTHER,
    *TEXTS_LONG,
]

# What the tiny models read: every text is short enough for a context of 512 byte tokens.
TINY_TEXTS = [
    "a",
    "the question of the day",
    "What is the capital of France?",
    "It's what they've said, isn't it? WE'RE SURE.",
    "  two  leading spaces,\ttabs\nand\n\nnewlines  ",
    "3.14159 and 65,536 in 2024",
    "snake_case_names CamelCaseNames https://example.org/a/b?c=1",
    "向量检索 and Straße, η θάλασσα, السلام",
    "def encode(self, texts): return [self.model(text) for text in texts]",
    "👨‍👩‍👧 emoji 🙂",
    "search engine " * 30,
]

_LETTERS = {
    "latin": "The Quick brown fox, jumped over 13 lazy dogs.",
    "german": "Fünf größere Jäger mußten über ÄÖÜ und ẞ nachdenken",
    "french": "L'œuvre où Noël naît ; « déjà vu » ça ira",
    "spanish": "¿Dónde está el niño? ¡Aquí, señor!",
    "vietnamese": "Tiếng Việt có nhiều dấu: ệ ỗ ữ ặ ơ đ Đ",
    "polish": "Zażółć gęślą jaźń ŁÓDŹ",
    "czech": "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "turkish": "İstanbul'da ışık ve Iğdır, I ı İ i",
    "icelandic": "Þórður og Ægir eiga við Ð ð",
    "greek": "Ὁ βίος βραχύς, ἡ δὲ τέχνη μακρή ΟΔΥΣΣΕΥΣ ς σ",
    "russian": "Съешь ещё этих мягких французских булок Й Ё",
    "ukrainian": "Щастя, ґанок, їжак, Єва",
    "armenian": "Բարեւ աշխարհ",
    "georgian": "გამარჯობა მსოფლიო ᲒᲐᲛᲐᲠᲯᲝᲑᲐ",
    "hebrew": "שָׁלוֹם עוֹלָם מה שלומך",
    "arabic": "السَّلَامُ عَلَيْكُمْ ٤٥ ﷺ ؟ ،",
    "persian": "می‌خواهم کتاب بخوانم ۱۲۳",
    "urdu": "اردو زبان میں ہے",
    "hindi": "हिन्दी में लिखा हुआ पाठ, क्षत्रिय ज़िंदगी १२३।",
    "bengali": "বাংলা ভাষায় লেখা",
    "tamil": "தமிழ் மொழி கொடு",
    "telugu": "తెలుగు భాష",
    "kannada": "ಕನ್ನಡ ಭಾಷೆ ಕೊಡು",
    "malayalam": "മലയാളം ഭാഷ",
    "sinhala": "සිංහල භාෂාව",
    "thai": "ภาษาไทยไม่มีช่องว่าง น้ำ",
    "lao": "ພາສາລາວ ນ້ຳ",
    "burmese": "မြန်မာဘာသာ",
    "khmer": "ភាសាខ្មែរ",
    "tibetan": "བོད་སྐད་ ༄༅",
    "chinese_simplified": "我爱自然语言处理，2024年！",
    "chinese_traditional": "繁體中文測試：龍、龜、鬱",
    "chinese_rare": "𠀀𠮷𪚥𫝀㐀鿿",
    "japanese": "日本語のテキスト、カタカナとひらがな。ガギグ ｶﾞｷﾞ が ぱ ー々〆",
    "korean": "한국어 문장입니다 각 힣 가나다 ㄱㄴ",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ",
    "ethiopic": "አማርኛ ፊደል ፩፪",
    "cherokee": "ᏣᎳᎩ ꭰꮳ",
    "runes": "ᚠᚢᚦᚨᚱᚲ",
    "math_letters": "𝐀𝒷𝔠𝕯 𝟙𝟚 ℝℂℕ ﬁ ﬂ Å K Ω",
    "fullwidth": "Ｆｕｌｌ　ｗｉｄｔｈ１２３！？",
    "circled": "① ② Ⅷ ⅷ ½ ¾ ² ₃ ™ ℃ №",
    "deseret": "𐐀𐐨 𐐁",
}

_EMOJI = [
    "🙂",
    "❤️",
    "❤",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇫🇷🇩🇪",
    "7️⃣ #️⃣",
    "🥺🫠🫶🪿",
    "text🙂text",
    "☃☂★☆♠♥",
    "©®™",
    "⌚️⏰ ▶️",
    "🙂🙂 🙂",
]

_SPACES = [
    "",
    " ",
    "   ",
    "a b",
    " a",
    "a ",
    "a  b   c",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "a\rb",
    "\n\n\na",
    "a\n \n b",
    "    indented\n        more\n    back",
    "a\u00a0b",
    "a\u2003b\u2009c",
    "a\u3000b",
    "a\u200bb",
    "a\u2028b\u2029c",
    "a\u0085b",
    "a\u000bb\u000cc",
    "a\u001cb\u001dc\u001ed\u001fe",
    "a\u1680b\u180ec",
    "a\u202fb\u205fc",
    "a\ufeffb",
    "\ufeffbom first",
    "a\u2060b",
    "trailing newline\n",
    "trailing spaces   \n\n   ",
    " \t\n mixed \n\t ",
]

_CONTROLS = [
    "a\u0000b",
    "\u0000",
    "a\u0001b\u0007c",
    "a\u001bb[31mred",
    "a\u007fb",
    "a\u0080b\u009fc",
    "a\u00adb soft hyphen",
    "left\u200eright\u200fmarks\u202aembed\u202c",
    "zero\u200cwidth\u200djoin",
    "a\ufffdb",
    "a\ue000b private",
    "a\uf8ffb",
    "a\U000f0000b",
    "a\ufff9b\ufffac",
    "a\ufdd0b",
    "a\uffffb",
    "unassigned \u0378 \u0380 \U0001fffd",
    "tag \U000e0067\U000e0062\U000e007f",
    "variation \ufe0e \ufe0f \U000e0100",
    "\u0600 \u06dd \u070f arabic format",
]

_COMBINING = [
    "e\u0301",
    "\u00e9",
    "E\u0301\u0323",
    "a\u0323\u0301 a\u0301\u0323",
    "A\u030a \u00c5 \u212b",
    "n\u0303\u0303\u0303",
    "\u0301alone",
    "x\u0338 \u2260 =\u0338",
    "Z\u0351\u036b\u0343a\u0363l\u0348g\u033co",
    "\u1e9b\u0323 \u1e69",
    "\u1100\u1161\u11a8 \uac01",
    "\uac00\u11a8",
    "\u0928\u093c \u0929",
    "\u0915\u093c \u0958",
    "\u05e9\u05bc\u05c1 \ufb2c",
    "\u0627\u0653 \u0622",
    "\u30ab\u3099 \u30ac",
    "\u0344 \u0340 \u0341",
    "\u2126 \u212a \u1f71 \u1fef",
    "\uf900 \uf9ff \ufa10 \U0002f800",
    "\u20e3 keycap 1\u20e3",
    "\u0488\u0489 enclosing",
    "\u0903 \u093f \u09be \u0bbe spacing marks",
]

_PUNCTUATION = [
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "wait... what?! -- no -- yes; (maybe) [sure] {ok}",
    "don't can't I'll you've he'd we're it's I'm",
    "DON'T CAN'T I'LL YOU'VE HE'D WE'RE IT'S I'M",
    "‘curly’ “quotes” „low“ «guillemets» ‹single›",
    "dash – en — em ― bar ‐ hyphen ‑ nb − minus",
    "ellipsis … bullet • dagger † section § pilcrow ¶",
    "€ £ ¥ ₹ ₿ ¢ ¤ $100",
    "a+b=c a*b a^b a|b a~b a<b>c",
    "× ÷ ± ≤ ≥ ≠ ≈ ∞ ∑ ∫ √ ∂ → ⇒ ⟶",
    "。、，！？；：「」『』【】《》",
    "،؛؟ ۔ ।॥ ፡። ៖",
    "´ ` ¨ ¯ ¸ ˆ ˜ ˇ ¬ ¦",
    "⸺ ⸻ ⹀ ⹁ 〰 ・ ･ ﹏ ＿ ‿",
    "#hashtag @mention user@example.org",
    "a_b_c __init__ --flag -x 'q' \"dq\"",
    "100% 50‰ 37°C 5′ 6″",
    "[CLS] [MASK] [SEP] [UNK] [PAD]",
    "<|endoftext|> <|im_start|>user<|im_end|> </s> <s>",
]

_NUMBERS = [
    "0",
    "1234567890",
    "1,234,567.89",
    "3.14159e-10",
    "0xDEADBEEF 0b1010 1_000",
    "1st 2nd 3rd 4th",
    "٠١٢٣٤٥٦٧٨٩ ۰۱۲ ०१२ ০১২ ๐๑๒",
    "½ ¾ ⅓ ¹²³ ₁₂ Ⅳ ① ㊿",
    "2024-05-17T12:31:07Z 17.05.2024 5/17/24",
    "+49 (0)30 1234-5678",
    "192.168.0.1:8080 ::1 fe80::1%eth0",
    "a1b2c3 v1.2.3-rc.4+build5",
    "99999999999999999999999999999999999999999999",
]

_CODE = [
    "if (x == 1 && y != 2) { return !z; }",
    "def f(x):\n\treturn x ** 2  # comment\n\n\nclass A:\n    pass",
    "x = {'a': [1, 2, {'b': None}]}; print(f\"{x['a']!r:>10}\")",
    'std::map<std::string, std::vector<int>> m; m["k"].push_back(-1);',
    "SELECT * FROM t WHERE a LIKE '%x_y%' -- comment",
    "<?xml version=\"1.0\"?><a b='c'>&lt;&#x1F600;</a>",
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2",
    "C:\\Users\\me\\file.txt /usr/local/bin ../a/./b",
    "git commit -m 'fix: #123' && git push --force-with-lease",
    "((((((((((()))))))))))",
    "=====\n-----\n*****",
    "a;b;c;;;;\r\n\r\n\tx",
    "console.log(`${a} => ${b}`); /* c */ // d",
    "0 1 0 1 \t\t 0\t1",
]

_URLS = [
    "https://www.example.org/path/to/page.html?query=value&other=1#fragment",
    "http://user:pass@host.example:8080/%E4%BD%A0%E5%A5%BD",
    "ftp://ftp.example.com/pub/file.tar.gz",
    "mailto:first.last+tag@sub.example.co.uk",
    "www.example.com",
    "https://例え.jp/パス?キー=値",
    "doi:10.1000/xyz123 arXiv:2506.18902 ISBN 978-3-16-148410-0",
    "git@github.com:owner/repo.git",
    "data:text/plain;base64,SGVsbG8sIFdvcmxkIQ==",
]

_LONG_WORDS = [
    "a" * 99,
    "a" * 100,
    "a" * 101,
    "a" * 500,
    "x" * 3000,
    "ab" * 60,
    "é" * 100,
    "é" * 101,
    "e\u0301" * 60,
    "word " + "supercalifragilistic" * 6 + " word",
    "0123456789" * 11,
    "Донаудампфшиффартсгезельшафт" * 4,
    "ก" * 120,
    "中" * 150,
    "-" * 150,
    "a-" * 80,
    "🙂" * 120,
    "unbelievable" * 8 + "unbelievable",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch",
]

_CASE = [
    "ALL CAPS TEXT",
    "MiXeD cAsE",
    "ẞ ß SS ﬀ ŉ ǰ",
    "İ I ı i",
    "Σίσυφος ΣΊΣΥΦΟΣ",
    "Ǆ ǅ ǆ Ǉ ǈ",
    "ϴ θ Ω ω K k Å å",
    "ᾼ ᾳ ᾈ ἀι",
    "Ꭰ ꭰ Ა ა Ⴀ ⴀ",
    "Ⓐ ⓐ Ⅳ ⅳ Ａ ａ",
    "'ſ 'S 'ſt long s",
    "𝓐𝓑 𐐀 Ɐ ɐ Ꞌ",
]

_SPECIAL_TEXT = [
    "▁",
    "▁the ▁quick",
    "the▁quick",
    "##ing ##s",
    "▁▁▁",
    "Ġthe Ċ ĉ",
    "<0x41> <unk> <s>",
    "\u2581\u2581a",
    "un##believable",
    "a\u2581",
]


def _mixed() -> list[str]:
    """Texts of several families side by side, by a fixed rule."""
    parts = [*_LETTERS.values()]
    out = []
    for i in range(24):
        pieces = [parts[(i * 7 + k * 11) % len(parts)] for k in range(3)]
        pieces.append(_EMOJI[i % len(_EMOJI)])
        pieces.append(_NUMBERS[i % len(_NUMBERS)])
        out.append((" ", "", "\n", ", ")[i % 4].join(pieces))
    return out


STRING_FAMILIES: dict[str, list[str]] = {
    "scripts": [*_LETTERS.values()],
    "emoji": _EMOJI,
    "whitespace": _SPACES,
    "controls": _CONTROLS,
    "combining": _COMBINING,
    "punctuation": _PUNCTUATION,
    "numbers": _NUMBERS,
    "code": _CODE,
    "urls": _URLS,
    "long words": _LONG_WORDS,
    "case": _CASE,
    "tokenizer text": _SPECIAL_TEXT,
    "mixed": _mixed(),
    "texts": [
        *TEXTS_ENGLISH,
        *TEXTS_CHINESE,
        *TEXTS_ARABIC,
        *TEXTS_CODE,
        *TEXTS_EMOJI,
        *TEXTS_OTHER,
    ],
}

STRINGS = [text for family in STRING_FAMILIES.values() for text in family]
