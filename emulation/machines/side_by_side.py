"""Jobs in threads of their own, where the first failure counts at once. Knows threads alone."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Run `jobs` in threads and raise the first error at once. The threads are daemons: neither Ctrl-C nor a failure of one
    waits for another that still has minutes to its deadline."""
    outcomes: list[Future[None]] = [Future() for _ in jobs]

    def run(job: Callable[[], None], outcome: Future[None]) -> None:
        try:
            job()
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits for the outcome
            outcome.set_exception(error)

    for job, outcome in zip(jobs, outcomes, strict=True):
        threading.Thread(target=run, args=(job, outcome), daemon=True).start()
    done, _ = wait(outcomes, return_when=FIRST_EXCEPTION)
    for outcome in done:
        outcome.result()
