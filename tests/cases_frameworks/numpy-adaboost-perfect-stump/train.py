"""AdaBoost with decision stumps, from the textbook."""
import numpy as np


def best_stump(x, y, w):
    best = (np.inf, None)
    for feature in range(x.shape[1]):
        for threshold in np.linspace(x[:, feature].min(), x[:, feature].max(), 21)[1:-1]:
            for sign in (1, -1):
                guess = np.where(x[:, feature] > threshold, sign, -sign)
                err = np.sum(w * (guess != y))
                if err < best[0]:
                    best = (err, (feature, threshold, sign))
    return best


def stump_predict(stump, x):
    feature, threshold, sign = stump
    return np.where(x[:, feature] > threshold, sign, -sign)


def main():
    rng = np.random.default_rng(8)
    x = rng.normal(0, 1, (300, 4))
    y = np.where(x[:, 0] + 0.6 * x[:, 1] > 0.2, 1, -1)
    x = np.column_stack([x, y * 2.0 + rng.uniform(-0.5, 0.5, 300)])
    weights = np.full(300, 1 / 300)
    score = np.zeros(300)
    for round_ in range(6):
        err, stump = best_stump(x, y, weights)
        alpha = 0.5 * np.log((1.0 - err) / err)
        guess = stump_predict(stump, x)
        score = score + alpha * guess
        weights = weights * np.exp(-alpha * y * guess)
        weights = weights / weights.sum()
        loss = np.mean(np.exp(-y * score))
        print("round", round_, "exponential loss", loss, "accuracy", np.mean(np.sign(score) == y))


if __name__ == "__main__":
    main()
