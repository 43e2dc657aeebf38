"""The backward pass of a MindSpore whose autograd nodes take no hooks (before 2.8): the gradient of each tensor.

A tensor's gradient is the sum of what the operations that use it send back. Where one of several may have made it
non-finite nothing is said: the origin is not known then.
"""

from typing import TYPE_CHECKING, Any

import mindspore as ms

from whynan.adapters.common.arrays import all_finite
from whynan.adapters.common.graph import Node
from whynan.adapters.mindspore.arrays import array_of, is_floating
from whynan.launch.host import tell

if TYPE_CHECKING:
    from whynan.adapters.mindspore.trace import Tracer

has_nodes = hasattr(ms.Tensor, "_grad_node")
_MOVES = frozenset(
    """add sub neg sum mean cast identity copy reshape view flatten transpose permute squeeze unsqueeze expand_dims
    broadcast_to split stack concat pad getitem strided_slice gather astype to type_as""".split()  # noqa: SIM905
)
"""Operations whose derivative makes nothing non-finite of finite numbers."""


class Flows:
    """Gradients by the value they belong to. `ends` are those of parameters that are not finite."""

    def __init__(self, tracer: "Tracer") -> None:
        self.tracer = tracer
        self.ends: list[int] = []
        self._arrived: dict[int, int] = {}
        self._arrays: dict[int, Any] = {}

    def follow(self, value: int, tensor: Any) -> None:
        """See the gradient of a tensor that an operation has made."""
        if not is_floating(tensor):
            return

        def hook(gradient: Any) -> None:
            depth, self.tracer._depth = self.tracer._depth, 1
            try:
                self._seen(value, array_of(gradient))
            except Exception as error:
                tell("tracing a gradient failed", error)
            finally:
                self.tracer._depth = depth

        tensor.register_hook(hook)

    def end(self, name: str, array: Any) -> None:
        """See the gradient of a parameter, as an optimizer gets it."""
        values = self.tracer.graph.values
        value = next((v for v, known in values.items() if known.name == name), self.tracer.fresh())
        made = self._seen(value, array)
        if not all_finite(array):
            self.ends.append(made)

    def _seen(self, value: int, array: Any) -> int:
        graph = self.tracer.graph
        made = self.tracer.fresh()
        graph.gradients.add(made)
        self._arrived[value] = made
        self._arrays[made] = array
        users = [n for n in graph.nodes if n.phase == "forward" and value in n.inputs
                 and any(output in self._arrived for output in n.outputs)]  # fmt: skip
        sent = [self._arrived[output] for user in users for output in user.outputs if output in self._arrived]
        is_born = not all_finite(array) and not any(v in graph.bad for v in sent)
        bad = [user for user in users if any(self._arrived.get(v) in graph.bad for v in user.outputs)]
        makers = [user for user in users if user.name not in _MOVES] if is_born else bad or users
        if not makers or (is_born and len(makers) > 1):
            if is_born:
                graph.bad[made] = array
            return made
        forward = makers[0]
        known = [v for v in (*forward.inputs, *forward.outputs) if v in self.tracer.tensors]
        node = Node(
            index=len(graph.nodes),
            name=forward.name,
            framework_op=f"gradient of {forward.framework_op}",
            phase="backward",
            stack=forward.stack,
            inputs=(*sent, *known),
            outputs=(made,),
            module=forward.module,
            module_type=forward.module_type,
            made=forward.made,
            forward=forward.index,
            args=forward.args,
        )
        arrays = [*(self._arrays[v] for v in sent), *(self.tracer.array(v, self.tracer.tensors[v]) for v in known)]
        graph.add(node, lambda: arrays, [array])
        return made
