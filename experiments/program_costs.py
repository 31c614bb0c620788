"""Operations and memory traffic of a compiled program, its loops counted as often as they run.

XLA's own `Compiled.cost_analysis()` counts the body of a loop once. This walks through the
optimised program in its text form with XLA's conventions, and multiplies by the trip counts that
XLA found.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

import jax

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ARRAY = re.compile(r"\b(pred|bf16|[fsuc]\d+|f8\w+)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(\w+)=(?:%([\w.\-]+)|\{([^{}]*)\})")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# A `dot`, and the configuration of a library's matrix product.
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)[}\]]')
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
# One operation for each number of the result; in XLA's count exp and the like are none of them.
_ARITHMETIC = frozenset(
    ("abs", "add", "and", "ceil", "clamp", "compare", "divide", "floor", "maximum", "minimum")
    + ("multiply", "negate", "not", "or", "remainder", "round-nearest-afz", "round-nearest-even")
    + ("select", "shift-left", "shift-right-arithmetic", "shift-right-logical", "sign")
    + ("subtract", "xor")
)
# These move nothing: names for what is there, or control of what others do.
_FREE = frozenset(
    ("after-all", "bitcast", "call", "conditional", "constant", "get-tuple-element", "opt-barrier")
    + ("parameter", "partition-id", "replica-id", "tuple", "while")
)
# They read as much as they give, whatever the size of what they read from.
_READ_A_PART = frozenset(("slice", "dynamic-slice", "gather"))


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program does.

    Attributes:
        flops: Arithmetic operations; a matrix product of `[m, k]` and `[k, n]` is `2 m k n`.
        bytes: Bytes that its operations read and write. What one hands to the next through a
            cache counts too, so it is an upper bound of the traffic with main memory.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """This and so many times the other."""
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


def cost_of(compiled: jax.stages.Compiled, *, trips: float = 1.0) -> Cost:
    """The cost of one call.

    Args:
        compiled: The program.
        trips: Rounds of the costliest outermost loop whose number the program finds out as it
            runs. All other such loops count as one round, so they are underestimated.
    """
    return program_cost(compiled.as_text() or "", trips=trips)


def program_cost(text: str, *, trips: float = 1.0) -> Cost:
    """As `cost_of`, of a program in XLA's text form."""
    computations, entry = _parse(text)
    return _Walker(computations).run(entry, trips)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    result: str  # its type
    kind: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, *keys: str) -> list[str]:
        """Names of the computations that it calls under these keys."""
        found = []
        for key, name, names in _CALLED.findall(self.attributes):
            if key in keys:
                found += [name] if name else _NAME.findall(names)
        return found


_Computation = dict[str, _Instruction]


class _Walker:
    def __init__(self, computations: dict[str, _Computation]):
        self._computations = computations
        self._known: dict[str, Cost] = {}

    def run(self, entry: str, trips: float) -> Cost:
        """The cost of the entry, the costliest loop of unknown length taken `trips` times."""
        loops = []
        for computation in self._reached_once(entry):
            for instruction in computation.values():
                if instruction.kind == "while" and not _TRIPS.search(instruction.attributes):
                    loops.append(self._loop_body(instruction))
        longest = max(loops, key=lambda cost: (cost.flops, cost.bytes), default=Cost())
        return self._cost(entry).plus(longest, trips - 1.0)

    def _reached_once(self, name: str) -> Iterable[_Computation]:
        """A computation and those that it calls outside of loops."""
        computation = self._computations[name]
        yield computation
        for instruction in computation.values():
            if instruction.kind in ("call", "conditional"):
                for inner in instruction.called("to_apply", "branch_computations"):
                    yield from self._reached_once(inner)

    def _cost(self, name: str) -> Cost:
        if name not in self._known:
            total = Cost()
            computation = self._computations[name]
            for instruction in computation.values():
                total = total.plus(self._instruction(instruction, computation))
            self._known[name] = total
        return self._known[name]

    def _loop_body(self, loop: _Instruction) -> Cost:
        body, condition = loop.called("body")[0], loop.called("condition")[0]
        return self._cost(body).plus(self._cost(condition))

    def _instruction(self, instruction: _Instruction, scope: _Computation) -> Cost:
        if instruction.kind == "while":
            known = _TRIPS.search(instruction.attributes)
            return Cost().plus(self._loop_body(instruction), float(known[1]) if known else 1.0)
        if instruction.kind == "conditional":
            keys = ("branch_computations", "true_computation", "false_computation")
            branches = [self._cost(name) for name in instruction.called(*keys)]
            return max(branches, key=lambda cost: (cost.flops, cost.bytes))
        if instruction.kind == "call":
            return self._cost(instruction.called("to_apply")[0])
        if instruction.kind in _FREE:
            return Cost()
        return Cost(self._flops(instruction, scope), self._traffic(instruction, scope))

    def _flops(self, instruction: _Instruction, scope: _Computation) -> float:
        size = _numbers(instruction.result)
        if instruction.kind in _ARITHMETIC:
            return size
        if instruction.kind == "fusion":
            inner = self._computations[instruction.called("calls")[0]]
            return sum(self._flops(one, inner) for one in inner.values())
        if instruction.kind in ("reduce", "reduce-window"):
            window = _WINDOW.search(instruction.attributes)
            if window:
                return size * (math.prod(int(n) for n in window[1].split("x")) - 1)
            operand = _type(instruction.operands[0], scope)
            return max(_numbers(operand) - size, 0.0)
        if instruction.kind in ("dot", "custom-call"):
            contracted = _CONTRACTED.search(instruction.attributes)
            if contracted:
                shape = _shapes(_type(instruction.operands[0], scope))[0]
                axes = [int(axis) for axis in re.findall(r"\d+", contracted[1])]
                result = math.prod(_shapes(instruction.result)[0])
                return 2.0 * result * math.prod(shape[axis] for axis in axes)
        return 0.0

    def _traffic(self, instruction: _Instruction, scope: _Computation) -> float:
        written = _bytes(instruction.result)
        read = [_bytes(_type(name, scope)) for name in instruction.operands]
        if instruction.kind in _READ_A_PART:
            return 2.0 * written
        if instruction.kind in ("dynamic-update-slice", "scatter"):
            return 2.0 * read[-1 if instruction.kind == "scatter" else 1]
        if instruction.kind != "fusion":
            return sum(read) + written
        inner = self._computations[instruction.called("calls")[0]]
        parameters = [one for one in inner.values() if one.kind == "parameter"]
        in_place: set[str] = set()
        total = 0.0
        for root in _roots(inner):
            if root.kind == "dynamic-update-slice":
                # What is updated stays where it is; only the new part moves.
                in_place.add(_source(root.operands[0], inner))
                total += 2.0 * _bytes(_type(root.operands[1], inner))
            else:
                total += _bytes(root.result)
        for parameter in parameters:
            if parameter.name not in in_place:
                total += _read_of(parameter, inner)
        return total


def _read_of(parameter: _Instruction, scope: _Computation) -> float:
    """Bytes that a fusion reads of one of its inputs."""
    users = [one for one in scope.values() if parameter.name in one.operands]
    whole = _bytes(parameter.result)
    if users and all(
        one.kind in _READ_A_PART and one.operands[0] == parameter.name for one in users
    ):
        return min(whole, sum(_bytes(one.result) for one in users))
    return whole


def _roots(scope: _Computation) -> list[_Instruction]:
    root = next(one for one in scope.values() if one.is_root)
    chosen = root.operands if root.kind == "tuple" else (root.name,)
    return [scope[_source(name, scope)] for name in chosen]


def _source(name: str, scope: _Computation) -> str:
    """What a chain of names without effect stands for."""
    while scope[name].kind in ("bitcast", "copy"):
        name = scope[name].operands[0]
    return name


def _type(name: str, scope: _Computation) -> str:
    return scope[name].result


def _shapes(result: str) -> list[list[int]]:
    return [[int(n) for n in dims.split(",") if n] for _, dims in _ARRAY.findall(result)]


def _numbers(result: str) -> float:
    return float(sum(math.prod(shape) for shape in _shapes(result)))


def _bytes(result: str) -> float:
    total = 0.0
    for kind, dims in _ARRAY.findall(result):
        bits = re.search(r"\d+", kind)
        width = 1.0 if bits is None else int(bits[0]) / 8.0
        total += width * math.prod(int(n) for n in dims.split(",") if n)
    return total


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    """The computations by name, and the name of the first to run."""
    computations: dict[str, _Computation] = {}
    entry = ""
    scope: _Computation = {}
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            scope = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _parse_instruction(line.strip())
            scope[instruction.name] = instruction
    if not entry:
        raise ValueError("this is not a program in XLA's text form: it has no ENTRY")
    return computations, entry


def _parse_instruction(line: str) -> _Instruction:
    name, _, rest = re.sub(r"/\*.*?\*/", "", line).partition(" = ")
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    kind, _, _ = rest.partition("(")
    rest = rest[len(kind) :]
    end = _closing(rest)
    operands: Sequence[str] = [] if kind == "constant" else _NAME.findall(rest[:end])
    is_root = name.startswith("ROOT ")
    name = name.removeprefix("ROOT ").lstrip("%")
    return _Instruction(name, result, kind, tuple(operands), rest[end + 1 :], is_root)


def _closing(text: str) -> int:
    """Where the parenthesis that opens the text is closed."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index
    raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")
