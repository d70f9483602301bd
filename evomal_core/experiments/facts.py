"""What a record must hold for tables and figures to be made of it: names, types, ranges."""

from ..checks import MAYBE, NONE, NUMBER, check, check_choice, check_fields
from ..config import SWITCHES
from ..losses import loss_from_json
from ..search.state import check_history

STATUSES = ("complete", "diverged", "no_loss")  # of a run
METRICS = ("train_metric", "validation_metric", "test_metric")
OF_BOTH = dict.fromkeys(("cell", "config", "seconds", "versions", "hardware"), (dict,))
OF_BOTH |= {"status": (str,), "reason": (str, NONE), "started": (str,), "commit": (str, NONE)}
OF_SEARCH = OF_BOTH | {"fitness": MAYBE, "learning_rate": MAYBE, "history": (list,), "leaders": (list,)}
OF_SEARCH |= {"loss": (dict, NONE), "resumed": (int,), "engine": (str,)}
OF_TEST = OF_BOTH | dict.fromkeys(METRICS, MAYBE) | {"search": (dict,), "metric": (str,), "start": (str,)}
OF_TEST |= {"steps": (int,), "milestones": (list,), "learning_rate": NUMBER}
OF_LEADER = {"loss": (dict,), "fitness": MAYBE, "learning_rate": MAYBE}
OF_HARDWARE = {"cpu": (str,)}  # the name of a GPU is there if there was one


def _check_both(what: str, data: dict, kinds: dict) -> None:
    check_fields(what, data, kinds)
    check_fields("seconds", data["seconds"], {}, NUMBER)
    check_fields("hardware", data["hardware"], OF_HARDWARE, (str, int, NONE))
    check_fields("versions", data["versions"], {}, (str, NONE))
    check(isinstance(data.get("metric", ""), str), f"metric of {what}", "str", repr(data.get("metric"))[:80])


def check_search(data: dict) -> None:
    """Raise ValueError unless this is the record of a search, as schema 2 has it, with losses that can be read."""
    _check_both("the search", data, OF_SEARCH)
    check_choice("status", data["status"], ("complete", "no_loss"))
    check_history(data["history"])
    for leader in data["leaders"]:
        check_fields("a leader", leader, OF_LEADER)
    for loss in [data["loss"], *(leader["loss"] for leader in data["leaders"])]:
        if loss is not None:
            loss_from_json(loss)
    check((data["loss"] is None) == (data["status"] == "no_loss"), "loss", "there unless no_loss", data["status"])


def check_test(data: dict) -> None:
    """Raise ValueError unless this is the record of a test: its errors are there if it is complete, else null."""
    _check_both("the test", data, OF_TEST)
    check_choice("status", data["status"], STATUSES)
    check_choice("start", data["start"], SWITCHES["test_start"].values)
    complete = data["status"] == "complete"
    for name in METRICS if not complete else ("test_metric",):
        check((data[name] is not None) == complete, name, "a number if complete, else null", data[name])
