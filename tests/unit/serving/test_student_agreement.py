import numpy as np
import pytest
import torch

from streamrec.models.student import StudentModel
from streamrec.serving.recommender import Recommender


@pytest.mark.parametrize("length", [1, 3, 6])
def test_server_and_student_give_one_answer(version, length):
    arrays, meta = version(50)
    student = StudentModel(meta["dim"], meta["history_length"], word_buckets=4, scale=meta["scale"])
    with torch.no_grad():
        for name in ("position_logits", "own_bias", "pool_projection", "last_projection"):
            getattr(student, name).copy_(torch.from_numpy(arrays[name]))
        history = torch.full((1, meta["history_length"]), -1)
        history[0, :length] = torch.tensor([7, 3, 7, 9, 1, 3])[:length]
        vectors, bias = torch.from_numpy(arrays["item_vectors"]), torch.from_numpy(arrays["item_bias"])
        scores = student.add_own(student.score(student.encode(vectors, history), vectors, bias), history)[0].numpy()

    rows, values = Recommender(arrays, meta).rank(history[0, :length].numpy().astype(np.int32), 50)

    np.testing.assert_allclose(values, scores[rows], atol=1e-4)
    assert rows.tolist() == np.argsort(-scores, kind="stable").tolist()
