"""Progress bars: one over all with the time left, one for each weight under way."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

from sparse_triton.records import Trial

WEIGHT_COLUMNS = 36


class Bar:
    """One weight's bar; what it does not use up is credited to the bar over all at the end."""

    def __init__(self, overall: Any, name: str, trials: int | None, quiet: bool) -> None:
        self.overall, self.left, self.best_us = overall, trials or 0, float("inf")
        self.bar = tqdm(
            total=trials, desc=name[-WEIGHT_COLUMNS:], leave=False, unit="config", disable=quiet
        )

    def advance(self, trial: Trial) -> None:
        if trial.timing is not None and trial.timing.us < self.best_us:
            self.best_us = trial.timing.us
            self.bar.set_postfix_str(f"{trial.config.kernel} {self.best_us:.1f} us")
        self.bar.update()
        self._credit(1)

    def skip(self, trials: int) -> None:
        """Trials that earlier runs have done."""
        self.bar.update(trials)
        self._credit(trials)

    def _credit(self, trials: int) -> None:
        self.overall.update(min(trials, self.left) if self.left else 0)
        self.left = max(0, self.left - trials)

    def close(self) -> None:
        self._credit(self.left)
        self.bar.close()


class Progress:
    """Context: the bar over all. ``open`` makes a weight's bar."""

    def __init__(self, trials: int, quiet: bool) -> None:
        self.trials, self.quiet = trials, quiet

    def __enter__(self) -> Progress:
        self.overall = tqdm(total=self.trials, desc="all", unit="config", disable=self.quiet)
        return self

    def __exit__(self, *_: Any) -> None:
        self.overall.close()

    def open(self, name: str, trials: int | None) -> Bar:
        return Bar(self.overall, name, trials, self.quiet)
