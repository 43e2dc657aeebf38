"""Softmax regression by hand; the validation split is as the training one."""
import numpy as np
rng = np.random.default_rng(0)
x = rng.normal(size=(200, 5)); w_true = rng.normal(size=(5, 3))
y = (x @ w_true).argmax(1)
x[188] *= 4.0
x_tr, y_tr, x_val, y_val = x[:150], y[:150], x[150:], y[150:]
w = np.zeros((5, 3))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


for epoch in range(40):
    p = softmax(x_tr @ w)
    loss = -np.log(p[np.arange(150), y_tr]).mean()
    p[np.arange(150), y_tr] -= 1
    w -= 0.5 * x_tr.T @ p / 150
    q = softmax(x_val @ w)
    val_loss = -np.log(q[np.arange(50), y_val]).mean()
    if epoch % 10 == 0:
        print(epoch, round(loss, 4), round(val_loss, 4))
