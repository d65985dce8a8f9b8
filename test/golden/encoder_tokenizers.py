"""Writes encoder_tokenizers/: small tokenizers of the kinds that text encoders use (BERT's word pieces, with small letters and without, and
SentencePiece's unigrams as an XLM-RoBERTa has them), and cases.json with what Hugging Face's `tokenizers` makes of hard texts and pairs.

    python test/golden/encoder_tokenizers.py                 (tokenizers 0.23, sentencepiece 0.2.3)
    python test/golden/encoder_tokenizers.py --characters    prints the lists of src/data/tokens/exact/bert-characters.ts
"""

import io
import json
import pathlib
import random
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

OUT = pathlib.Path(__file__).with_name("encoder_tokenizers")

CORPUS = [
    "The river runs past the old mill, and the miller counts his sacks of flour every morning.",
    "Nobody knew why the lamp in the window burned all night; it wasn't the keeper's habit.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Ça va? Où est-il né?",
    "1, 2, 3, 10, 42, 1999 and 2026 are numbers; 3.14159 is one too. It's what they've said, I'd think we'll see.",
    "Being unable to return, the walker stood waiting, thinking, hoping and singing until the evening.",
] * 9

HARD = [
 "", " ", "a", "Hello, World!", "naïve café résumé ÀÉÎÕÜ ñ Å", "ﬁﬂ ligatures ½ ² ™ №", "İstanbul ıI ŞşĞğ ẞß ǅ", "e\u0301 o\u0308 combining a\u0323\u0302", "Việt Nam Tiếng Việt",
 "中文字符测试 漢字かな交じり文 한국어 텍스트", "日本語、テスト。ｶﾀｶﾅ ｆｕｌｌｗｉｄｔｈ １２３", "中a文b 一二三abc", "\u4e00\u9fff\u3400\u4dbf\uf900\U00020000\U0002a6df\U0002f800",
 "control \x00\x01\x07\x1f\x7f\u0080\u009f chars", "tab\tnewline\ncr\r\nvt\x0bff\x0c nbsp\u00a0 thin\u2009 zwsp\u200b zwj\u200d bom\ufeff ideographic\u3000space line\u2028sep para\u2029sep nel\u0085x",
 "soft\u00adhyphen rtl\u200fmark \u202eoverride word\u2060joiner", "\ufffd replacement", "unk \u16a0\u16a1 runes ☃ snowman ❤️ 😀😃 👩‍👩‍👧‍👦 🇩🇪", "x"*100, "x"*101, "a"*99+" "+"b"*150, "hello"*25, "ü"*100+" "+"ü"*101, "中"*120,
 "don't can't it's I'm we've 'quoted' \"double\" `tick` ''", "a.b.c U.S.A. 3.14 1,000,000 $5.99 50% #tag @user a_b-c/d\\e http://x.y/?q=1&r=2", "--- ... !!! ??? *** ~~~ ^^^ <<>> [[ ]] {{ }} | ¿¡ «» “” ‘’ – — … • ·",
 "[CLS] [SEP] [MASK] [UNK] [PAD] [cls] [ SEP ]", "text[SEP]text [MASK]. x[MASK]y", "<s> </s> <mask> <unk> <pad> <s>a</s>", "The  quick   brown    fox\n\n\njumps", "  leading and trailing  ", "ALLCAPS MixedCase camelCase",
 "Привет мир Ёлка йод", "Ελληνικά Άλφα ΣΊΣΥΦΟΣ ς σ", "العربية نَصّ مُشَكَّل", "עברית שָׁלוֹם", "हिन्दी देवनागरी क्षत्रिय", "ไทยภาษา", "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "Ǆ ǅ ǆ ŉ ΐ", "①②③ Ⅷ ㍿ ㎏ ﷺ", "a\u0300\u0301\u0302\u0303", "\u1e9b\u0323", "ｈｅｌｌｏ Ｗｏｒｌｄ！", "½ cup ⅓", "x²+y³=z⁴", "10⁵ H₂O", "\U0001d400\U0001d5ba math", "tes\u0000t", "\ud7a3각힣", "I\u0307", "ﬀ ﬆ", "Å Å", "K ℃", "⸺ ⁇ ‼", "foo\u180ebar", "a\u2063b", "\u0600\u06dd", "p\u0334q", "\u0345", "▁ under ▁▁x", "a▁b"]


def fuzz(count, seed):
    """Random mixtures of what is hard."""
    rng = random.Random(seed); out = []
    pools = ["abcdefghijklmnopqrstuvwxyz"*3, "ABCXYZ", " \t\n\u00a0\u3000", ".,;:!?'\"()[]{}<>@#$%^&*-_=+/\\|`~", "àéîõüñçßøåæœşğıİ", "中文字日本語かなカナ한국어", "0123456789", "\u0300\u0301\u0308\u0323", "\x00\x01\x7f\u200b\u200d\ufeff\u00ad\ufffd\u0085\u2028", "αβγΣς Привет عرب שלום हिंदी ไทย", "😀❤️☃🇩🇪½²①™№ﬁ"]
    for _ in range(count):
        s = ""
        for _ in range(rng.randint(1, 40)):
            r = rng.random()
            if r < .15: s += chr(rng.choice([rng.randint(0x20, 0x2ff), rng.randint(0x300, 0xfff), rng.randint(0x1000, 0x33ff), rng.randint(0x3400, 0xd7ff), rng.randint(0xe000, 0xffff), rng.randint(0x10000, 0x1ffff), rng.randint(0x20000,0x2fa1f)]))
            elif r < .25: s += rng.choice(["the", "and", "ing", "un", "able", "Hello", "world", " [SEP] ", "[MASK]", "</s>", "<mask>"])
            else: s += rng.choice(rng.choice(pools))
        out.append(s)
    return out


def bert(lowercase):
    """The trainer of word pieces breaks ties by chance, so the vocabulary is made here: characters, words of the corpus, ends of words."""
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = [word for text in CORPUS[:5] + HARD for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    short = [word for word in words if len(word) < 20]
    # Some characters of the hard texts are unknown.
    characters = sorted({character for word in short for character in word if ord(character) % 5 != 0 or ord(character) < 0x250})
    ends = ["##" + word[-length:] for word in short for length in (2, 3) if len(word) > length]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = set(characters)
    pieces = [piece for piece in short[: len(short) // 2] + ends if known.issuperset(piece.removeprefix("##"))]
    vocabulary = list(dict.fromkeys(special + characters + ["##" + one for one in characters] + pieces))
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return tokenizer, names


def xlm_roberta():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS + HARD[3:]), model_writer=out, vocab_size=600, model_type="unigram",
        normalization_rule_name="nmt_nfkc", character_coverage=0.98, unk_id=3, bos_id=0, eos_id=2, pad_id=1, unk_piece="<unk>",
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    vocabulary = [(piece.piece, piece.score) for piece in model.pieces] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    table = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    spaces = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.normalizer = normalizers.Sequence([table, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"], special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<s>", "<pad>", "</s>", "<unk>")])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return tokenizer, names


def write(name, tokenizer, names, texts):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(names) + "\n")
    cases = []
    for i, text in enumerate(texts):
        second = texts[(i * 7 + 3) % len(texts)]
        pair = tokenizer.encode(text, second)
        cases.append({"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids, "second": second, "pair": pair.ids, "types": pair.type_ids})
    (folder / "cases.json").write_text("[" + ",\n".join(json.dumps(case) for case in cases) + "]\n")
    print(name, tokenizer.get_vocab_size(), len(cases))


def ranges_of(codes):
    """Ranges in base 36: how many are between a range and the one before it and, after a colon, how many follow the first."""
    def digits(n):
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[n % 36]
        return text if n < 36 else digits(n // 36) + text

    found = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    at, words = 0, []
    for first, last in found:
        words.append(digits(first - at) + ("" if first == last else ":" + digits(last - first)))
        at = last + 1
    return " ".join(words)


def print_characters():
    strip = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    split = pre_tokenizers.BertPreTokenizer()
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    print("marks:", ranges_of(code for code in codes if strip.normalize_str(chr(code)) == ""))
    print("punctuation:", ranges_of(code for code in codes if len(split.pre_tokenize_str("a" + chr(code) + "b")) == 3))


def main():
    if "--characters" in sys.argv:
        print_characters()
        return
    texts = HARD + fuzz(200, 7)
    write("bert-uncased", *bert(True), texts)
    write("bert-cased", *bert(False), texts)
    write("xlm-roberta", *xlm_roberta(), texts)


if __name__ == "__main__":
    main()
