"""From a scored run to a signed record in a repository of results."""

from datetime import UTC, datetime
from pathlib import Path

from xaibench.benchmark.results import Results
from xaibench.errors import SubmissionError
from xaibench.leaderboard.submission.commitment import read_commitment
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.quota import next_quota, records
from xaibench.leaderboard.submission.record import KEY_VARIABLE, make_record, signing_key, write_record

HIDDEN = "hidden"


def sign(package: Package, run: Path, repository: Path, author: str, *, commitment: Path | None = None, reproduced: bool = False) -> Path:
    """Write the record of a scored package, signed.

    Args:
        package: The package.
        run: Folder in which it was scored.
        repository: Repository of results.
        author: Account that sent it.
        commitment: Published commitment; a hidden split must have one.
        reproduced: Whether a maintainer made the explanations again.

    Returns:
        Folder of the record.

    Raises:
        SubmissionError: If there is no key, the quota is used up, the run is another package's, or a hidden split has no commitment.
    """
    key, results, card = signing_key(), Results.read(run), package.card
    if key is None:
        raise SubmissionError(f"{KEY_VARIABLE} must be set to sign a record, got nothing; make one with `openssl rand -hex 32`")
    hidden = card.task.name == HIDDEN
    promised = read_commitment(commitment) if commitment else None
    if hidden and (promised is None or promised.task != HIDDEN):
        raise SubmissionError("a hidden split must have a commitment before it is scored, got none; make it with `xaibench submit commit`")
    origin = results.summary.origins.get(card.label)
    if origin is None or origin.package_sha256 != package.sha256:
        raise SubmissionError(f"run must be that of {card.label}, got another package's in {run}; score this one")
    today = datetime.now(UTC).date()
    quota = next_quota(records(repository), author, today)
    made = make_record(
        results,
        card,
        quota=quota,
        scored_on=today.isoformat(),
        hidden=hidden,
        commitment=promised.root if promised else "",
        reproduced=reproduced,
    )
    return write_record(made.signed(key), results, repository)
