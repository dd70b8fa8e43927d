"""Values behave like frozen dataclasses with slots: each rule on the value's own, and side by side with the real thing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from nvdra_core.value import Value, asdict, field, fields, replace, required


class Point(Value, order=True):
    x: int
    y: int = 0


class Shape(Value, kw_only=True):
    kind: ClassVar[str] = "shape"
    name: str
    points: tuple[Point, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    secret: str = field(default="", repr=False)


class Even(Value):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


@dataclass(frozen=True, slots=True, order=True)
class Model:
    x: int
    y: int = 0


def test_is_made_of_positions_and_names():
    assert Point(1, 2) == Point(1, y=2) == Point(x=1, y=2)
    assert Point(1).y == 0


@pytest.mark.parametrize(
    ("args", "given", "word"),
    [
        ((), {}, "missing fields ['x']"),
        ((1, 2, 3), {}, "too many"),
        ((1,), {"x": 2}, "x is given twice"),
        ((1,), {"z": 2}, "unknown ones ['z']"),
    ],
)
def test_refuses_fields_that_do_not_fit(args: Any, given: Any, word: str):
    with pytest.raises(TypeError) as raised:
        Point(*args, **given)
    assert word in str(raised.value)
    with pytest.raises(TypeError):
        Model(*args, **given)


def test_takes_names_only_where_it_says_so():
    with pytest.raises(TypeError, match="positional"):
        Shape("square")  # type: ignore[call-arg]


def test_cannot_be_changed_nor_grown():
    point = Point(1)
    for change in (
        lambda: setattr(point, "x", 2),
        lambda: setattr(point, "new", 2),
        lambda: delattr(point, "x"),
    ):
        with pytest.raises(AttributeError, match="immutable"):
            change()
    assert point == Point(1)
    assert not hasattr(point, "__dict__")


def test_is_equal_by_fields_and_only_to_its_own_kind():
    assert Point(1, 2) != Point(2, 1)
    assert Point(2) != Even(2)
    assert Point(1) != (1, 0)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_has_no_hash_when_a_field_has_none():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Shape(name="a"))


def test_is_ordered_like_a_dataclass():
    numbers = [(1, 2), (0, 9), (1, 0)]
    ours = [(point.x, point.y) for point in sorted(Point(*pair) for pair in numbers)]
    assert ours == [(model.x, model.y) for model in sorted(Model(*pair) for pair in numbers)]
    assert Point(1) <= Point(1) and Point(2) > Point(1) and not Point(1) >= Point(2)
    with pytest.raises(TypeError):
        _ = Point(1) < 2  # type: ignore[operator]


def test_shows_all_but_what_is_hidden():
    assert repr(Point(1)) == "Point(x=1, y=0)"
    shown = repr(Shape(name="a", secret="s3cret"))
    assert shown == "Shape(name='a', points=(), notes={})"


def test_makes_a_default_anew_for_each():
    first, second = Shape(name="a"), Shape(name="b")
    first.notes["seen"] = True
    assert second.notes == {}


def test_a_class_variable_is_no_field():
    assert fields(Shape) == ("name", "points", "notes", "secret")
    assert required(Shape) == {"name"}
    assert Shape(name="a").kind == "shape"


def test_refuses_what_a_class_refuses_also_in_a_copy():
    with pytest.raises(ValueError, match="odd"):
        Even(3)
    with pytest.raises(ValueError, match="odd"):
        replace(Even(2), number=5)


def test_a_copy_differs_in_what_was_said():
    assert replace(Point(1, 2), y=5) == Point(1, 5)
    with pytest.raises(TypeError, match="unknown"):
        replace(Point(1), z=1)


def test_becomes_plain_data_to_the_bottom():
    shape = Shape(name="a", points=(Point(1),), notes={"end": [Point(2)]})
    plain = asdict(shape)
    assert plain["points"] == ({"x": 1, "y": 0},)
    assert plain["notes"] == {"end": [{"x": 2, "y": 0}]}


def test_can_be_copied_and_sent():
    shape = Shape(name="a", points=(Point(1),), notes={"a": 1})
    for copied in (copy.copy(shape), copy.deepcopy(shape), pickle.loads(pickle.dumps(shape))):
        assert copied == shape
    assert copy.deepcopy(shape).notes is not shape.notes


def test_the_start_of_a_service_makes_no_dataclass():
    """Each costs 0.8 ms and 23 kB; the libraries' own are few and known."""
    program = (
        "import dataclasses\n"
        "made, real = [], dataclasses._process_class\n"
        "def noted(cls, *rest, **options):\n"
        "    made.append(cls.__module__)\n"
        "    return real(cls, *rest, **options)\n"
        "dataclasses._process_class = noted\n"
        "import nvdra_node.app.startup, nvdra_node.app.gpu\n"
        "print(*[name for name in made if name.startswith('nvdra')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
