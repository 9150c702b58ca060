"""Where the columns of a row reach in a template: what prints them, and which of them stand for a label."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


def mark(node: nodes.Node, through: set[str], cut: bool) -> None:
    """Wrap every printed expression: cut it, and mark it if it shows something of a column."""
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.Output):
            for i, item in enumerate(child.nodes):
                if isinstance(item, nodes.TemplateData):
                    continue
                names = {name.name for name in _names(item)}
                for wanted, name in ((cut, "_cut"), (bool(names & through), "_column")):
                    if wanted:
                        item = nodes.Filter(item, name, [], [], None, None, lineno=item.lineno)
                child.nodes[i] = item
        # What is captured or rewritten inside the template must not contain marks; it is marked when it is printed.
        elif not isinstance(child, (nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.FilterBlock)):
            mark(child, through, cut)


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    if isinstance(node, nodes.Name):
        yield node
    yield from node.find_all(nodes.Name)


def _targets(node: nodes.Node) -> set[str]:
    names = {name.name for name in _names(node)}
    references = {ref.name for ref in ([node] if isinstance(node, nodes.NSRef) else node.find_all(nodes.NSRef))}
    return names | references


def tainted(tree: nodes.Template, columns: set[str]) -> set[str]:
    """The names through which something of a column can be printed: the columns, and what is assigned from them."""
    through, before = set(columns), -1
    flows: list[tuple[set[str], set[str]]] = []
    for assign in tree.find_all(nodes.Assign):
        flows.append((_targets(assign.target), {n.name for n in _names(assign.node)}))
    for loop in tree.find_all(nodes.For):
        flows.append((_targets(loop.target), {n.name for n in _names(loop.iter)}))
    for block in tree.find_all(nodes.AssignBlock):
        flows.append((_targets(block.target), {n.name for child in block.body for n in _names(child)}))
    for macro in tree.find_all(nodes.Macro):
        names = {n.name for child in macro.body for n in _names(child)}
        flows.append(({macro.name}, names))
    while before != len(through):
        before = len(through)
        for targets, read in flows:
            if read & through:
                through |= targets
    return through


def label_uses(tree: nodes.Template, columns: set[str], own_choices: bool) -> tuple[set[str], set[str]]:
    """Columns used as a number that stands for a label: as `answer_choices[column]`, and in other ways."""
    picks: set[str] = set()
    harmless: set[int] = set()
    for item in tree.find_all(nodes.Getitem):
        fixed = isinstance(item.node, nodes.Name) and item.node.name == "answer_choices" and not own_choices
        if fixed and isinstance(item.arg, nodes.Name) and item.arg.name in columns:
            picks.add(item.arg.name)
            harmless.add(id(item.arg))
    for test in tree.find_all(nodes.Compare):
        others = [operand.expr for operand in test.ops]
        if isinstance(test.expr, nodes.Name) and all(_is_minus_one(other) for other in others):
            harmless.add(id(test.expr))
    for output in tree.find_all(nodes.Output):
        harmless |= {id(item) for item in output.nodes if isinstance(item, nodes.Name)}
    counts = {n.name for n in tree.find_all(nodes.Name) if n.name in columns and id(n) not in harmless}
    return picks, counts


def _is_minus_one(node: nodes.Expr) -> bool:
    if isinstance(node, nodes.Neg):
        return isinstance(node.node, nodes.Const) and node.node.value == 1
    return isinstance(node, nodes.Const) and node.value in (-1, "-1", "", None)
