"""How often one author may be scored: each answer tells something of the masks, and many answers tell all of it."""

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

from xaibench.errors import SubmissionError
from xaibench.leaderboard.submission.record import RECORD, Quota, Record, read_record

LIMIT, DAYS = 5, 30


def records(repository: str | Path) -> list[Record]:
    """Read all records of a repository of results."""
    return [read_record(path) for path in sorted(Path(repository).glob(f"results/*/*/*/{RECORD}"))]


def next_quota(known: Iterable[Record], author: str, today: date, *, limit: int = LIMIT, days: int = DAYS) -> Quota:
    """Count one more submission of an author.

    Raises:
        SubmissionError: If the quota is used up.
    """
    since = today - timedelta(days=days)
    recent = [r for r in known if r.quota.author.casefold() == author.casefold() and since < date.fromisoformat(r.scored_on) <= today]
    if len(recent) >= limit:
        again = min(date.fromisoformat(r.scored_on) for r in recent) + timedelta(days=days)
        raise SubmissionError(
            f"an author may be scored {limit} times in {days} days, got {author} with {len(recent)}; send again on {again}"
        )
    return Quota(author=author, number=len(recent) + 1, limit=limit, days=days)


def over_quota(known: Iterable[Record]) -> list[str]:
    """Name the authors who were scored more often than their records allow, counting from each record backwards."""
    all_records = list(known)
    found = set()
    for record in all_records:
        day, since = date.fromisoformat(record.scored_on), timedelta(days=record.quota.days)
        mine = [r for r in all_records if r.quota.author.casefold() == record.quota.author.casefold()]
        recent = [r for r in mine if day - since < date.fromisoformat(r.scored_on) <= day]
        if len(recent) > record.quota.limit:
            found.add(record.quota.author)
    return sorted(found)
