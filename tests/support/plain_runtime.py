"""A second runtime, as a stranger would write one: a context is a folder of numpy files, and decode reads them plainly.

No pool, no hot buffer, nothing of the reference runtime but row formats. `open_runtime` is right; each other function
has one fault.
"""

from pathlib import Path

import numpy as np

from guest.agent.runtime import LayerOutput
from sac_runtime.rows.quantise import unpack_rows


class PlainRuntime:
    def __init__(self, task, fault=None):
        print("a stranger's runtime may print")
        self.task, self.fault = task, fault
        self.folder = Path(task.store.removeprefix("shared:"))

    def populate(self, tokens, layers):
        self.folder.mkdir(parents=True, exist_ok=True)
        for layer, rows in enumerate(layers):
            np.save(self.folder / f"{layer}.npy", rows)
            if self.fault == "stops early":
                break
        np.save(self.folder / "tokens.npy", tokens)

    def fetch(self, tokens):
        if not np.array_equal(np.load(self.folder / "tokens.npy"), tokens):
            raise ValueError("another context")
        return PlainDecoding(self.task, self.folder, self.fault)

    def close(self):
        pass


class PlainDecoding:
    def __init__(self, task, folder, fault):
        self.task, self.folder, self.fault = task, folder, fault
        self.rows = [np.load(folder / f"{layer}.npy") for layer in range(task.num_layers)]
        if fault == "layers exchanged":
            self.rows.reverse()

    def wrong_canaries(self):
        return []

    def attend(self, layer, given):
        if self.fault != "new row forgotten":
            self.rows[layer] = np.vstack([self.rows[layer], given.row])
        else:
            self.rows[layer] = np.vstack([self.rows[layer], np.zeros_like(given.row)])
        order = np.argsort(-given.scores, kind="stable")
        if self.fault == "one entry off":
            order = order[1:]
        chosen = np.sort(order[: self.task.top_k])
        rows = self.rows[layer][chosen]
        latent, rope = unpack_rows(self.task.kv_layout, rows)
        logits = given.query @ np.hstack([latent, rope]).T * self.task.softmax_scale
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        attention = (odds / odds.sum(axis=1, keepdims=True) @ latent).astype(np.float32)
        if self.fault == "one head":
            attention = attention[:1]
        return LayerOutput(chosen, rows, attention, chosen)

    def end_step(self):
        pass

    def read_back(self, layer):
        return self.rows[layer][self.task.context_tokens :]

    def close(self):
        pass


def open_runtime(task):
    return PlainRuntime(task)


def layers_exchanged(task):
    return PlainRuntime(task, "layers exchanged")


def new_row_forgotten(task):
    return PlainRuntime(task, "new row forgotten")


def one_entry_off(task):
    return PlainRuntime(task, "one entry off")


def one_head(task):
    return PlainRuntime(task, "one head")


def stops_early(task):
    return PlainRuntime(task, "stops early")


def offers_nothing(task):
    return object()
