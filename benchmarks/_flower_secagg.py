"""A round of Flower's SecAgg+ in one process; its interpreter is not ours.

``secure_aggregation.py`` runs this with the interpreter that KUMIAI_FLOWER_PYTHON names. Flower's
own workflow and its own client mod do all the work; only the network between them is a loop.
Prints one line of JSON: wall seconds and CPU seconds of the round, and the largest error.
"""

import copy
import json
import logging
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    ConfigRecord,
    Context,
    FitIns,
    FitRes,
    Message,
    RecordDict,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.compat.common import recorddict_compat as compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.secure_aggregation import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)


class LoopGrid:
    """Calls each client's mod where a grid would send."""

    def __init__(self, updates: dict[int, np.ndarray]) -> None:
        self.updates = updates
        self.contexts = {node: Context(0, node, {}, RecordDict(), {}) for node in updates}

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id

        def train(asked: Message, _: Context) -> Message:
            parameters = ndarrays_to_parameters([self.updates[node]])
            result = FitRes(Status(Code.OK, ""), parameters, 1, {})
            return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=asked)

        # The mod takes what it reads out of the message, which here all clients share.
        message.content = copy.deepcopy(message.content)
        return secaggplus_mod(message, self.contexts[node], train)


class Strategy:
    """Asks every client, and keeps what comes out."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes
        self.mean: np.ndarray | None = None

    def configure_fit(self, _: int, parameters: Any, __: Any) -> list[tuple[Any, FitIns]]:
        return [(SimpleNamespace(node_id=node), FitIns(parameters, {})) for node in self.nodes]

    def aggregate_fit(self, _: int, results: Any, __: Any) -> tuple[Any, dict[str, Any]]:
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return results[0][1].parameters, {}


def main() -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    count, dimension = int(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(1)
    updates = {
        node: rng.uniform(-1, 1, dimension).astype(np.float32) for node in range(10, count + 10)
    }
    strategy = Strategy(list(updates))
    context = LegacyContext(
        context=Context(0, 0, {}, RecordDict(), {}),
        strategy=strategy,
        client_manager=SimpleNamespace(num_available=lambda: count),
    )
    start = ndarrays_to_parameters([np.zeros(dimension, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        start, keep_input=True
    )
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 / 3, max_weight=8)
    wall, cpu = time.perf_counter(), time.process_time()
    workflow(LoopGrid(updates), context)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    wanted = np.mean(np.stack(list(updates.values())), axis=0)
    error = float(np.abs(strategy.mean - wanted).max()) if strategy.mean is not None else None
    print(json.dumps({"wall": wall, "cpu": cpu, "error": error}))


if __name__ == "__main__":
    main()
