"""The command line: one file per verb; every error is one sentence and every kind of ending has its exit code."""

import sys
from typing import Annotated, NoReturn

import typer

from xaibench.cli import care, check, compare, data, doctor, explain, gate, new, report, run, score, show, submit, train, verify, vocode
from xaibench.errors import ExitCode, XaibenchError

app = typer.Typer(
    name="xaibench",
    help="Which explanation of an audio-deepfake detector can be trusted?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("gate")(gate.gate)
app.command("recover")(care.recover)
app.command("merge")(care.merge)
app.command("migrate")(care.migrate)
app.command("gc")(care.gc)
app.command("list")(show.list_plugins)
app.command("info")(show.info)
app.command("explain")(explain.explain)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("verify")(verify.verify)
app.command("vocode")(vocode.vocode)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.add_typer(submit.app, name="submit")
app.add_typer(new.app, name="new")


def main() -> NoReturn:
    """Run the command line; user errors print one sentence, anything else is a fault of ours and shows where."""
    try:
        returned = app(standalone_mode=False)
        code = returned if isinstance(returned, int) else ExitCode.OK
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except XaibenchError as error:
        code = error.exit_code
        _say(f"error: {error}")
    except Exception as error:  # sorted below; what is nobody's to mend goes on to Python
        code = _code_of(error)
    if code == ExitCode.INTERRUPTED:
        _say("interrupted; what was finished is kept, the same command goes on from there")
    sys.exit(code)


def _code_of(error: Exception) -> int:
    """Print a usage error and return its exit code; raise what is a fault of ours.

    Typer may bring its own copy of click, whose exceptions are known by what they can do, not by their class. A ``ValueError`` of ours
    has the form "X must ..., got ...; remedy".
    """
    if type(error).__name__ == "Abort":
        return ExitCode.INTERRUPTED
    show = getattr(error, "show", None)
    if callable(show):
        show()
        return ExitCode.USAGE
    if isinstance(error, ValueError | TypeError) and " must " in str(error) and "; " in str(error):
        _say(f"error: {error}")
        return ExitCode.USAGE
    raise error


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"xaibench {version('xaibench')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")] = False,
) -> None:
    """Which explanation of an audio-deepfake detector can be trusted?"""


def _say(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    plain = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    Console(stderr=True, soft_wrap=True).print(Text(plain))
