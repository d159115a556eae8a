#!/usr/bin/env python3
"""Checks that modules point one way: no two files of src/ import each other, directly or through others, and no two
top-level modules do. A module and the ones inside it may know each other. Code that is compiled for tests alone is left out."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "src"


def path_of(file: pathlib.Path) -> tuple[str, ...]:
    return file.relative_to(ROOT).with_suffix("").parts


def tree(text: str) -> list[list[str]]:
    """The paths of a use tree: `a::{b, c::d}` is a::b and a::c::d."""
    text = text.strip()
    brace = text.find("{")
    if brace < 0:
        return [[part for part in re.split(r"\s+as\s+", text)[0].split("::") if part not in ("", "self", "*")]]
    head = [part for part in text[:brace].split("::") if part]
    inner, depth, start, paths = text[brace + 1 : text.rindex("}")], 0, 0, []
    for at, letter in enumerate(inner + ","):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if inner[start:at].strip():
                paths += [head + path for path in tree(inner[start:at])]
            start = at + 1
    return paths


def without_tests(text: str) -> str:
    """The source up to its test module, without comments."""
    text = re.split(r"#\[cfg\(test\)\]\s*(?:pub\S* )?mod \w+ \{", text)[0]
    return re.sub(r"//.*", "", text)


def test_modules(modules: dict) -> set:
    found = set()
    for path, text in modules.items():
        for name in re.findall(r"#\[cfg\((?:all\()?test\b[^\n]*\]\s*(?:pub\S* )?mod (\w+);", text):
            found.add(path + (name,))
    return found


def imports(path: tuple, text: str, modules: dict) -> set:
    """The modules whose items a file names."""
    own = () if path == ("lib",) else path
    paths = [full for use in re.findall(r"\buse ([^;]+);", text) for full in tree(use)]
    rest = re.sub(r"\buse [^;]+;", "", text)
    paths += [found.split("::") for found in re.findall(r"\b(?:crate|super)(?:::\w+)+", rest)]
    found = set()
    for full in paths:
        base = own
        if full and full[0] == "crate":
            base, full = (), full[1:]
        elif full and full[0] == "super":
            while full and full[0] == "super":
                base, full = base[:-1], full[1:]
        elif own + tuple(full[:1]) not in modules:
            continue
        target = tuple(base) + tuple(full)
        while target and target not in modules:
            target = target[:-1]
        if target and target != path:
            found.add(target)
    return found


def circles(graph: dict) -> list:
    """Strongly connected components of more than one node (Tarjan)."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                part.append(stack.pop())
                on.discard(part[-1])
                if part[-1] == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return found


def main() -> int:
    modules = {path_of(file): file.read_text() for file in sorted(ROOT.rglob("*.rs"))}
    for test in test_modules(modules):
        modules.pop(test, None)
    modules.pop(("main",), None)
    modules.pop(("lib",), None)
    files, tops = {}, {}
    for path, text in modules.items():
        targets = imports(path, without_tests(text), modules)
        kin = lambda other: other[: len(path)] == path or path[: len(other)] == other  # noqa: E731
        files[path] = {target for target in targets if not kin(target)}
        tops.setdefault(path[:1], set()).update(target[:1] for target in targets if target[0] != path[0])
    wrong = circles(files) + circles(tops)
    for circle in wrong:
        print("these modules import each other: " + ", ".join("::".join(path) for path in circle))
        for path in circle:
            graph = files if path in files and any(target in circle for target in files[path]) else tops
            for target in sorted(graph.get(path, set()) & set(circle)):
                print(f"  {'::'.join(path)} -> {'::'.join(target)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
