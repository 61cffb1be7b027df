"""The command line: one file per verb; every error is one sentence and every kind of ending has its exit code."""

import sys
from typing import NoReturn

import click
import typer

from xaibench.cli import check, data, doctor, explain, report, run, show, train
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
app.command("report")(report.report)
app.command("list")(show.list_plugins)
app.command("info")(show.info)
app.command("explain")(explain.explain)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")


def main() -> NoReturn:
    """Run the command line; user errors print one sentence, anything else is a fault of ours and shows where."""
    try:
        app(standalone_mode=False)
        code = ExitCode.OK
    except click.exceptions.Exit as ending:
        sys.exit(ending.exit_code)
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; what was finished is kept, the same command goes on from there")
        code = ExitCode.INTERRUPTED
    except XaibenchError as error:
        _say(f"error: {error}")
        code = error.exit_code
    except (ValueError, NotImplementedError) as error:
        _say(f"error: {error}")
        code = ExitCode.USAGE
    sys.exit(code)


def _say(text: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, soft_wrap=True).print(escape(text), highlight=False)
