"""One training loop of a framework, timed: a script like a user's, run plainly and under each tool.

    python benchmarks/framework_steps.py WORKLOAD STEPS [TOOL]

Prints `step_ms MEDIAN FASTEST`. TOOL is the framework's own check: numerics, debug-nans, seterr. With BENCH_CLOCK=cpu
in the environment the process's CPU time is taken in place of the wall's: what a busy machine allows.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WORKLOAD, STEPS = sys.argv[1], int(sys.argv[2])
TOOL = sys.argv[3] if len(sys.argv) > 3 else None
WARM = 10
times: list[float] = []
clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def report() -> None:
    steady = sorted(times[WARM:])
    print(
        f"step_ms {1e3 * statistics.median(steady):.4f} {1e3 * statistics.mean(steady[: max(len(steady) // 4, 1)]):.4f}"
    )


def keras_fit() -> None:
    """`fit` of a small CNN with batch normalisation."""
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    if TOOL == "numerics":
        tf.debugging.enable_check_numerics()
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (32 * 16, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, len(x))
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (16, 32, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    class Clock(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.began = clock()

        def on_train_batch_end(self, batch, logs=None):
            times.append(clock() - self.began)

    model.fit(x, y, batch_size=32, epochs=max(STEPS // 16, 1), verbose=0, callbacks=[Clock()])


def mindspore_net():
    """A net of convolutions with batch normalisation, its loss, an optimizer and a batch."""
    import mindspore as ms
    import numpy as np
    from mindspore import nn

    rng = np.random.default_rng(0)
    x = ms.Tensor(rng.normal(0, 1, (32, 3, 32, 32)).astype("float32"))
    y = ms.Tensor(rng.integers(0, 10, 32).astype("int32"))
    cells = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        cells += [nn.Conv2d(before, after, 3, stride=2), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.SequentialCell(*cells, nn.Flatten(), nn.Dense(128 * 16, 10))
    net.set_train()
    return net, nn.CrossEntropyLoss(), nn.Momentum(net.trainable_params(), 1e-3, 0.9), x, y


def ms_pynative() -> None:
    """A loop with `value_and_grad` in PyNative mode."""
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    net, loss_fn, optimizer, x, y = mindspore_net()
    grad_fn = ms.value_and_grad(lambda x, y: loss_fn(net(x), y), None, optimizer.parameters)
    for _ in range(STEPS):
        began = clock()
        loss, grads = grad_fn(x, y)
        optimizer(grads)
        float(loss)
        times.append(clock() - began)


def ms_graph() -> None:
    """`nn.TrainOneStepCell` in graph mode."""
    import mindspore as ms
    from mindspore import nn

    ms.set_context(mode=ms.GRAPH_MODE)
    net, loss_fn, optimizer, x, y = mindspore_net()
    train_step = nn.TrainOneStepCell(nn.WithLossCell(net, loss_fn), optimizer)
    train_step.set_train()
    for _ in range(STEPS):
        began = clock()
        loss = train_step(x, y)
        float(loss)
        times.append(clock() - began)


def tf_eager() -> None:
    """An eager loop with a tape: an MLP of four layers."""
    import numpy as np
    import tensorflow as tf

    if TOOL == "numerics":
        tf.debugging.enable_check_numerics()
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(0, 1, (64, 256)).astype("float32"))
    y = tf.constant(rng.normal(0, 1, (64, 1)).astype("float32"))
    model = tf.keras.Sequential([tf.keras.layers.Dense(256, activation="relu") for _ in range(4)])
    model.add(tf.keras.layers.Dense(1))
    optimizer = tf.keras.optimizers.SGD(1e-3)
    for _ in range(STEPS):
        began = clock()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        times.append(clock() - began)


def jax_jit() -> None:
    """A jitted update of an MLP, the loss read in each step as most loops do."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if TOOL == "debug-nans":
        jax.config.update("jax_debug_nans", True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (64, 512)).astype("float32"), rng.normal(0, 1, (64, 1)).astype("float32")
    keys = jax.random.split(jax.random.PRNGKey(0), 5)
    params = [0.05 * jax.random.normal(key, (512, 512)) for key in keys[:4]] + [
        0.05 * jax.random.normal(keys[4], (512, 1))
    ]

    def loss_fn(params, x, y):
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return jnp.mean((x @ params[-1] - y) ** 2)

    @jax.jit
    def train_step(params, x, y):
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        return jax.tree_util.tree_map(lambda p, g: p - 1e-3 * g, params, grads), loss

    for _ in range(STEPS):
        began = clock()
        params, loss = train_step(params, x, y)
        float(loss)
        times.append(clock() - began)


def numpy_loop() -> None:
    """A two-layer network by hand, 5 ms and more a step."""
    import numpy as np

    if TOOL == "seterr":
        np.seterr(all="raise", under="ignore")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (512, 512)), rng.normal(0, 1, (512, 1))
    w1, w2 = rng.normal(0, 0.05, (512, 768)), rng.normal(0, 0.05, (768, 1))
    losses = []
    for _ in range(STEPS):
        began = clock()
        hidden = np.maximum(x @ w1, 0)
        error = hidden @ w2 - y
        loss = (error**2).mean()
        grad = (error @ w2.T) * (hidden > 0)
        w2 -= 1e-4 * hidden.T @ error / len(x)
        w1 -= 1e-4 * x.T @ grad / len(x)
        losses.append(loss)
        times.append(clock() - began)


WORKLOADS = {
    "keras-fit": keras_fit,
    "tf-eager": tf_eager,
    "jax-jit": jax_jit,
    "numpy": numpy_loop,
    "ms-pynative": ms_pynative,
    "ms-graph": ms_graph,
}
WORKLOADS[WORKLOAD]()
report()
