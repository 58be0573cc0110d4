"""From weights to studies: equal problems once, and who may learn from whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from autotune.weight import Weight
from sparse_triton.problem import Problem
from sparse_triton.records import Key

MAX_SPARSITY_STEP = 0.03  # siblings' sparsities differ by at most this
MAX_DENSITY_RATIO = 1.35  # ... and their non-zeros by at most this factor


@dataclass
class Job:
    """One study: a problem of one pattern, with the names of all weights that have it."""

    key: Key
    weight: Weight
    names: list[str]
    siblings: list[Job] = field(default_factory=list)

    @property
    def name(self) -> str:
        more = len(self.names) - 1
        return self.names[0] + (f" (+{more})" if more else "")


def jobs_of(weights: Iterable[Weight], x_dtype: str | None) -> list[Job]:
    """A job for each different (pattern, problem); weights without columns have none."""
    jobs: dict[Key, Job] = {}
    for weight in weights:
        for problem in weight.problems(x_dtype):
            key = Key(problem, weight.matrix.pattern_hash)
            job = jobs.setdefault(key, Job(key, weight, []))
            job.names.append(weight.name)
    return list(jobs.values())


def with_siblings(jobs: list[Job]) -> list[Job]:
    """Leaders, each with the jobs of equal shape and similar sparsity that may copy from it.

    The leader is the one in the middle by non-zeros. Small weights come first: they seed the bigger
    ones, and tell what compiling costs.
    """
    groups: list[list[Job]] = []
    for job in sorted(jobs, key=lambda j: (_shape_key(j), j.key.problem.nnz)):
        if groups and _alike(groups[-1][0], job):
            groups[-1].append(job)
        else:
            groups.append([job])
    leaders = []
    for group in groups:
        leader = group.pop(len(group) // 2)
        leader.siblings = group
        leaders.append(leader)
    return sorted(leaders, key=lambda j: j.key.problem.nnz)


def _shape_key(job: Job) -> str:
    return repr(_without_nnz(job.key.problem))


def _without_nnz(problem: Problem) -> Problem:
    return replace(problem, nnz=0)


def _alike(a: Job, b: Job) -> bool:
    p, q = a.key.problem, b.key.problem
    small, big = sorted((p.nnz, q.nnz))
    return (
        _without_nnz(p) == _without_nnz(q)
        and abs(p.sparsity - q.sparsity) <= MAX_SPARSITY_STEP
        and big <= MAX_DENSITY_RATIO * small
    )
