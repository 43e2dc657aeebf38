"""The backward pass of a traced step, node by node: what flowed into each and what came out."""

from typing import TYPE_CHECKING, Any

from whynan.adapters.common.graph import Node
from whynan.adapters.mindspore.arrays import array_of, op_name
from whynan.launch.host import tell

if TYPE_CHECKING:
    from whynan.adapters.mindspore.trace import Tracer

_NO_SEQUENCE = 2**63


class BackwardPass:
    """Hooks on every node below a loss. `ends` are the non-finite values that reached a parameter."""

    def __init__(self, tracer: "Tracer", loss: Any) -> None:
        self.tracer = tracer
        self.ends: list[int] = []
        self.incoming: dict[tuple[int, int], list[int]] = {}
        """By a node's id and the number of its output: the gradients that flow into it."""
        self.forward: dict[int, int] = {}
        """By sequence number: the forward operation's index in the graph."""
        self.arrays: dict[int, Any] = {}
        self._nodes: list[Any] = []
        self._n_before = len(tracer.graph.nodes)
        root = getattr(loss, "_grad_node", None)
        if root is not None:
            self._hook_all(root)
            self._match()

    def _hook_all(self, root: Any) -> None:
        todo, seen = [root], set[int]()
        while todo:
            node = todo.pop()
            key = int(node._unique_id())
            if key in seen:
                continue
            seen.add(key)
            self._nodes.append(node)
            if not node.is_leaf():
                node.register_hook(self._hook(node))
            todo += [after for after, _ in node.next_functions if after is not None]

    def _match(self) -> None:
        """Find the forward operation of each node: by the value it made, else by name and order."""
        graph, tracer = self.tracer.graph, self.tracer
        nodes = sorted((n for n in self._nodes if int(n._sequence_nr()) < _NO_SEQUENCE), key=lambda n: n._sequence_nr())
        anchors: dict[int, int] = {}
        for sequence, value in tracer.sequences.items():
            index = graph.producer.get(value)
            if index is not None:
                anchors[sequence] = index
        place = 0
        for node in nodes:
            sequence, name = int(node._sequence_nr()), str(node.name())
            index = anchors.get(sequence)
            if index is not None and graph.nodes[index].framework_op == name:
                self.forward[sequence] = index
                place = index + 1
                continue
            limit = min((i for s, i in anchors.items() if s > sequence), default=self._n_before)
            found = next((i for i in range(place, limit) if graph.nodes[i].framework_op == name), None)
            if found is not None:
                self.forward[sequence] = found
                place = found + 1
            elif index is not None:
                self.forward[sequence] = index

    def _hook(self, node: Any) -> Any:
        def hook(grad_in: Any, grad_out: Any) -> None:
            tracer = self.tracer
            depth, tracer._depth = tracer._depth, 1
            try:
                self._seen(node, _listed(grad_in), _listed(grad_out))
            except Exception as error:
                tell(f"tracing the derivative of {node.name()} failed", error)
            finally:
                tracer._depth = depth

        return hook

    def _seen(self, node: Any, grad_in: list[Any], grad_out: list[Any]) -> None:
        tracer, graph = self.tracer, self.tracer.graph
        key, sequence, name = int(node._unique_id()), int(node._sequence_nr()), str(node.name())
        index = self.forward.get(sequence)
        forward = graph.nodes[index] if index is not None else None
        tracer._alive += [grad_in, grad_out]
        inputs, arrays = list[int](), list[Any]()
        for place, tensor in enumerate(grad_out):
            if tensor is not None:
                array = array_of(tensor)
                inputs.append(self._arrived(key, place, array, forward))
                arrays.append(array)
        if forward is not None:
            for value in (*forward.inputs, *forward.outputs):
                if value in tracer.tensors:
                    inputs.append(value)
                    arrays.append(tracer.array(value, tracer.tensors[value]))
        custom = None
        if "Custom" in name:
            # The script's own derivative: the operations inside of it were seen one by one.
            inside = [n for n in graph.nodes[self._n_before :] if n.custom is not None and n.index in graph.kept]
            custom = inside[-1].custom if inside else "bprop"
            for inner in inside:
                inputs += inner.outputs
                arrays += [graph.bad.get(v) for v in inner.outputs]
        after = list(node.next_functions)
        outputs, made = list[int](), list[Any]()
        for place, tensor in enumerate(grad_in):
            if tensor is None or place >= len(after) or after[place][0] is None:
                continue
            value, array = tracer.fresh(), array_of(tensor)
            outputs.append(value)
            made.append(array)
            target, number = after[place]
            if target.is_leaf():
                self._end(value, array)
            else:
                self.incoming.setdefault((int(target._unique_id()), int(number)), []).append(value)
        if not outputs:
            return
        plain = forward.name if forward is not None else op_name(name)
        node_of = Node(
            index=len(graph.nodes),
            name=plain,
            framework_op=f"gradient of {name}",
            phase="backward",
            stack=forward.stack if forward is not None else (),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            module=forward.module if forward is not None else None,
            module_type=forward.module_type if forward is not None else None,
            made=forward.made if forward is not None else None,
            forward=index,
            custom=custom,
            args=forward.args if forward is not None else {},
        )
        graph.gradients.update(outputs)
        for value, array in zip(outputs, made):
            self.arrays[value] = array
        graph.add(node_of, lambda: arrays, made)

    def _arrived(self, key: int, place: int, array: Any, forward: Node | None) -> int:
        """Return the value of what flowed in; where several gradients did, their sum."""
        tracer, graph = self.tracer, self.tracer.graph
        values = self.incoming.get((key, place), [])
        if len(values) == 1:
            return values[0]
        value = tracer.fresh()
        graph.gradients.add(value)
        if values:
            parts = [self.arrays[v] for v in values]
            total = Node(
                index=len(graph.nodes),
                name="add",
                framework_op="sum of gradients",
                phase="backward",
                stack=forward.stack if forward is not None else (),
                inputs=tuple(values),
                outputs=(value,),
                forward=forward.index if forward is not None else None,
            )
            graph.add(total, lambda: parts, [array])
        return value

    def _end(self, value: int, array: Any) -> None:
        from whynan.adapters.common.arrays import all_finite

        if not all_finite(array):
            self.ends.append(value)


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, (tuple, list)) else [tensors]
