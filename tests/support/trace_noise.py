"""Random request traces: whole ones in every format, and what becomes of them by mutation and truncation.

Same seed, same traces."""

import json
import random

NASTY = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "-1", "0", "0.5", "1e3", "true", "null", '"5"', '""', "[]", "{}", "[[]]",
    str(1 << 31), str(1 << 63), str(1 << 64), "9" * 400, "9" * 5000, '"\\ud800"', '"\u0665"', "[" * 3000, '{"a":' * 3000,
    "1700158623979", "1700158623979000", "0x10", "1_000", "012", "5e-324", "1.8e308", "\x00", "\u2028", "\ufeff", "'5'",
)  # fmt: skip
KEYS = (
    "timestamp",
    "input_length",
    "output_length",
    "hash_ids",
    "session_id",
    "delay",
    "chat_id",
    "input_toks",
    "value",
)


def mooncake_text(rng):
    block = rng.choice((16, 64, 512, 512, 512))
    lines, at, sessions = [], rng.choice((0, 1_700_158_623_979)), rng.random() < 0.3
    for number in range(rng.randint(1, 6)):
        tokens = rng.randint(1, 4 * block)
        line = {"timestamp": at, "input_length": tokens, "output_length": rng.randint(0, 20)}
        line["hash_ids"] = [rng.randint(0, 9) for _ in range(-(-tokens // block))]
        if sessions:
            line |= {"session_id": f"s{number % 2}", "delay": rng.random() * 100}
        for name in ("hash_ids", "output_length", "delay"):
            if rng.random() < 0.1:
                line.pop(name, None)
        lines.append(json.dumps(line))
        at += rng.choice((0, 1, 0.5, 3000))
    rng.shuffle(lines)
    return "\n".join(lines)


def bailian_text(rng):
    tokens = [rng.randint(1, 60) for _ in range(rng.randint(1, 5))]
    return "\n".join(
        json.dumps({"chat_id": number, "parent_chat_id": -1, "timestamp": rng.random() * 9, "input_length": length,
                    "output_length": 3, "type": "text", "turn": 1, "hash_ids": list(range(-(-length // 16)))})
        for number, length in enumerate(tokens)
    )  # fmt: skip


def servingsim_text(rng):
    lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 5))]
    return "\n".join(
        json.dumps({"input_toks": length, "output_toks": rng.randint(1, 9), "arrival_time_ns": rng.randint(0, 10**9),
                    "input_tok_ids": [rng.randint(0, 3) for _ in range(length)]})
        for length in lengths
    )  # fmt: skip


def sharegpt_text(rng):
    def turns():
        return [{"from": "human", "value": "x" * rng.randint(0, 99)} for _ in range(rng.randint(0, 4))]

    conversations = [{"id": str(number), "conversations": turns()} for number in range(rng.randint(1, 5))]
    return json.dumps(conversations, indent=rng.choice((None, 1)))


def azure_text(rng):
    rows = [
        f"2023-11-16 18:17:{rng.randint(0, 59):02}.9799600,{rng.randint(1, 5000)},{rng.randint(0, 9)}" for _ in range(3)
    ]
    return "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows)


def burstgpt_text(rng):
    rows = [f"{rng.random() * 99},GPT-4,{rng.randint(1, 999)},{rng.randint(0, 99)},5,API log" for _ in range(3)]
    return "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join(rows)


TEXTS = {
    "mooncake": mooncake_text,
    "bailian": bailian_text,
    "llmservingsim": servingsim_text,
    "sharegpt": sharegpt_text,
    "azure": azure_text,
    "burstgpt": burstgpt_text,
}


def mutated(rng, text):
    """The bytes of `text` after one to three mutations, which no writer of traces makes."""
    content = text.encode()
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(MUTATIONS)(rng, content)
    return content


def _cut(rng, content):
    return content[: rng.randrange(len(content) + 1)]


def _flip(rng, content):
    if not content:
        return b"\xff"
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _insert(rng, content):
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(NASTY).encode() + content[place:]


def _replace_number(rng, content):
    """Another value in place of one that stands behind a colon or a comma."""
    places = [place for place, byte in enumerate(content) if byte in b":,"]
    if not places:
        return content
    place = rng.choice(places) + 1
    end = next((at for at in range(place, len(content)) if content[at] in b",]}\n"), len(content))
    return content[:place] + rng.choice(NASTY).encode() + content[end:]


def _rename_key(rng, content):
    return content.replace(rng.choice(KEYS).encode(), rng.choice(KEYS).encode(), rng.randint(1, 3))


def _swap_lines(rng, content):
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return rng.choice((b"\n", b"\r\n", b"\n\n", b"\r")).join(lines)


def _double(rng, content):
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place // 2 :]


MUTATIONS = (_cut, _flip, _insert, _replace_number, _replace_number, _rename_key, _swap_lines, _double)


def examples(count, seed=0):
    """(format, bytes, whether whole) of `count` traces, one in five whole."""
    rng = random.Random(seed)
    for number in range(count):
        name = rng.choice(list(TEXTS))
        text = TEXTS[name](rng)
        whole = number % 5 == 0
        yield name, text.encode() if whole else mutated(rng, text), whole
