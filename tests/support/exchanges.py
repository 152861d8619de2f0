"""Small contexts written and fetched without machines, by an agent in a thread unless told otherwise."""

from emulation.conformance.exchange import Exchange, SharedMemory
from emulation.conformance.truth import Context, JobShape
from guest.agent.runtime import REFERENCE
from tests.support.agents import agent_in_thread

SHAPE = JobShape(context_tokens=2000, num_layers=3, num_heads=2, top_k=128, num_steps=3, hot_buffer=140, seed=7)


def exchanged(tmp_path, shape=SHAPE, flip=None, spoil=None, runtime=REFERENCE, agent=agent_in_thread):
    """Write one context by one agent and fetch it by another; `spoil` may change the store's file in between. Returns the exchange
    and the reader's answer."""
    store = f"shared:{tmp_path / 'pool'}"
    exchange = Exchange(Context(shape, 0), SharedMemory("p", "writer", store, "reader", store), flip)
    with agent() as writer, writer.opened(exchange.writer_task, runtime):
        exchange.write(writer, str)
    if spoil:
        spoil(tmp_path / "pool")
    with agent() as reader, reader.opened(exchange.reader_task, runtime):
        return exchange, exchange.read(reader, str)
