"""Accuracy, agreement and divergence from stored logits, against hand-counted values, SciPy and scikit-learn."""
import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn import metrics

from kd_capacity import fidelity
from kd_capacity.basics import UserError

RNG = np.random.default_rng
LABELS = np.array([0, 0, 1, 2])
TEACHER = np.array([[4, 0, 1], [3, 2, 0], [0, 5, 1], [1, 2, 0]], dtype=float)  # predicts 0 0 1 1
STUDENT = np.array([[2, 0, 1], [0, 1, 0], [1, 4, 1], [0, 3, 1]], dtype=float)  # predicts 0 1 1 1

def pair(images=300, classes=10, noise=1.0):
    teacher = RNG(0).normal(scale=4, size=(images, classes))
    return teacher, teacher + RNG(1).normal(scale=noise, size=teacher.shape)

def test_counted_by_hand():
    assert fidelity.accuracy(TEACHER, LABELS) == 3/4
    assert fidelity.accuracy(STUDENT, LABELS) == 2/4
    assert fidelity.agreement(TEACHER, STUDENT) == 3/4
    assert fidelity.per_class_accuracy(STUDENT, LABELS, 3).tolist() == [1/2, 1, 0]

def test_agreement_on_errors_counts_only_what_the_teacher_gets_wrong():
    "Its one error is the last image, which the student calls a 1 as well; of three errors two are repeated."
    assert fidelity.agreement_on_errors(TEACHER, STUDENT, LABELS) == 1
    assert fidelity.agreement_on_errors(TEACHER, STUDENT, [2, 2, 1, 2]) == 2/3
    assert np.isnan(fidelity.agreement_on_errors(TEACHER, STUDENT, [0, 0, 1, 1]))
    with pytest.raises(UserError, match='one label each'): fidelity.agreement_on_errors(TEACHER, STUDENT, [0])

def test_accuracies_are_scikit_learns():
    logits, labels = pair()[0], RNG(2).integers(10, size=300)
    assert fidelity.accuracy(logits, labels) == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    expected = metrics.recall_score(labels, logits.argmax(1), average=None)
    np.testing.assert_allclose(fidelity.per_class_accuracy(logits, labels, 10), expected)

def test_class_without_images_has_no_accuracy():
    per_class = fidelity.per_class_accuracy(STUDENT, LABELS, 5)
    assert np.isnan(per_class).tolist() == [False, False, False, True, True]

def test_ties_go_to_the_lower_class():
    assert fidelity.accuracy([[1, 1, 0], [0, 1, 1]], [0, 1]) == 1
    assert fidelity.agreement([[1, 1, 0]], [[1, 0, 0]]) == 1

def test_confusion_is_scikit_learns_with_the_teacher_in_the_rows():
    assert fidelity.confusion(TEACHER, STUDENT).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    a, b = pair(noise=4)
    counts = fidelity.confusion(a, b)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(a.argmax(1), b.argmax(1), labels=range(10)))
    assert counts.trace()/300 == pytest.approx(fidelity.agreement(a, b)) and (counts != counts.T).any()
    assert fidelity.confusion(TEACHER[:1], STUDENT[:1]).shape == (3, 3)

def test_agreement_is_symmetric_and_blind_to_the_truth():
    a, b = pair(noise=4)
    assert fidelity.agreement(a, b) == fidelity.agreement(b, a) == np.mean(a.argmax(1) == b.argmax(1)) < 1
    assert fidelity.agreement(a, a) == 1

def test_kl_by_hand_and_its_direction():
    t, s = np.log([[3.0, 1.0]]), np.zeros((1, 2))
    assert fidelity.kl(t, s) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert fidelity.kl(s, t) == pytest.approx(0.5 * np.log(2 / 3) + 0.5 * np.log(2))

@pytest.mark.parametrize('T', [1, 4])
def test_kl_is_scipys_entropy_without_T_squared(T):
    t, s = pair()
    expected = stats.entropy(special.softmax(t / T, axis=1), special.softmax(s / T, axis=1), axis=1).mean()
    assert fidelity.kl(t, s, temperature=T) == pytest.approx(expected, rel=1e-10)

def test_kl_is_zero_at_equal_probabilities_and_temperature_1_is_the_default():
    t, s = pair()
    assert fidelity.kl(t, t + 5) == pytest.approx(0, abs=1e-12)
    assert fidelity.kl(t, s) == fidelity.kl(t, s, 1.0)

def test_kl_of_extreme_logits_is_finite():
    assert fidelity.kl([[6e4, -6e4]], [[-6e4, 6e4]]) == pytest.approx(1.2e5)

@pytest.mark.parametrize('kind', [np.float16, np.float32, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_computed_in_float64(kind):
    t, s = (torch.tensor(z).to(kind) if isinstance(kind, torch.dtype) else z.astype(kind) for z in pair())
    wide = [z.double().numpy() if isinstance(z, torch.Tensor) else z.astype(np.float64) for z in (t, s)]
    assert fidelity.kl(t, s) == fidelity.kl(*wide)
    assert fidelity.agreement(t, s) == fidelity.agreement(*wide)
    assert type(fidelity.kl(t, s)) is type(fidelity.agreement(t, s)) is float

def test_tensors_with_gradient_and_labels_as_tensor():
    logits, labels = torch.tensor(STUDENT, requires_grad=True), torch.tensor(LABELS)
    assert fidelity.accuracy(logits, labels) == 1/2
    assert fidelity.per_class_accuracy(logits, labels, 3).tolist() == [1/2, 1, 0]

def test_inputs_are_left_as_they_are():
    t, s = pair()
    before = t.copy(), s.copy()
    fidelity.kl(t, s, 4), fidelity.agreement(t, s), fidelity.accuracy(t, np.zeros(300, int))
    assert np.array_equal(t, before[0]) and np.array_equal(s, before[1])

@pytest.mark.parametrize('call, words', [
    (lambda: fidelity.agreement(TEACHER, STUDENT[:2]), ['(4, 3)', '(2, 3)']),
    (lambda: fidelity.confusion(TEACHER, STUDENT[:, :2]), ['(4, 3)', '(4, 2)']),
    (lambda: fidelity.kl(TEACHER, STUDENT[:, :2]), ['(4, 3)', '(4, 2)']),
    (lambda: fidelity.kl(TEACHER, STUDENT, 0), ['temperature = 0']),
    (lambda: fidelity.kl(TEACHER, STUDENT, float('nan')), ['temperature = nan']),
    (lambda: fidelity.accuracy(TEACHER, LABELS[:3]), ['(3,)', '4 images']),
    (lambda: fidelity.accuracy(TEACHER[0], LABELS), ['(3,)']),
    (lambda: fidelity.accuracy(np.zeros((0, 3)), []), ['(0, 3)']),
    (lambda: fidelity.per_class_accuracy(TEACHER, LABELS, 2), ['0 to 2', '2 classes']),
    (lambda: fidelity.per_class_accuracy(TEACHER, LABELS - 1, 3), ['-1 to 1']),
    (lambda: fidelity.accuracy(np.full((2, 3), np.nan), [0, 0]), ['NaN']),
    (lambda: fidelity.kl(TEACHER, np.full((4, 3), np.inf)), ['infinite'])])
def test_what_cannot_be_compared_is_refused(call, words):
    with pytest.raises(UserError) as caught: call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert '\n' not in str(caught.value)

# ---- what is stored of logits

def test_half_precision_keeps_every_prediction():
    "Logits so close that float16 makes them equal: the winner stays the winner."
    z = np.array([[1.0, 1.0001, 0], [2048.0, 2049.0, 0], [-5.0001, -5.0002, -5.00005], [3, 1, 2]], np.float32)
    assert (z.astype(np.float16).argmax(1) != z.argmax(1)).any() # rounding alone would change some
    stored = fidelity.half_precision(z)
    assert stored.dtype == np.float16 and stored.argmax(1).tolist() == z.argmax(1).tolist() == [1, 1, 2, 0]
    np.testing.assert_allclose(stored, z, rtol=2e-3)

def test_half_precision_rounds_as_numpy_does_where_no_prediction_changes():
    z = pair()[0].astype(np.float32)
    assert np.array_equal(fidelity.half_precision(z), z.astype(np.float16))

def test_half_precision_keeps_the_predictions_of_many_close_logits():
    z = (100 + RNG(3).normal(scale=0.02, size=(5000, 10))).astype(np.float32)
    assert (z.astype(np.float16).argmax(1) != z.argmax(1)).mean() > 0.3
    assert (fidelity.half_precision(z).argmax(1) == z.argmax(1)).all()
