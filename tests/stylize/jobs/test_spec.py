from collections.abc import Callable

import pytest

from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.spec import ShardOptions, plan_shards, spec_digest

JobMaker = Callable[..., Job]


def test_a_plan_is_every_image_once_in_shuffled_shards(make_job: JobMaker) -> None:
    job = make_job("shapes", samples_per_shard=1500)
    plans = list(plan_shards(job.spec, job.source))
    assert [(plan.name, len(plan.indices)) for plan in plans] == [
        ("train-000000.tar", 1500),
        ("train-000001.tar", 1500),
        ("train-000002.tar", 1000),
        ("test-000000.tar", 1000),
    ]
    train = [index for plan in plans if plan.split == "train" for index in plan.indices]
    assert sorted(train) == list(range(4000))
    classes = [sum(index % 10 == label for index in train[:1500]) for label in range(10)]
    assert max(classes) - min(classes) < 80


def test_a_limit_takes_the_first_of_the_same_order(make_job: JobMaker) -> None:
    whole, limited = make_job("shapes"), make_job("shapes", limit=20)
    assert limited.spec.counts == {"train": 20, "test": 20}
    first = next(plan_shards(whole.spec, whole.source)).indices
    assert next(plan_shards(limited.spec, limited.source)).indices == first[:20]
    assert make_job("shapes", limit=2000).spec.counts == {"train": 2000, "test": 1000}


def test_the_digest_tells_every_option_apart(make_job: JobMaker) -> None:
    options: list[dict[str, object]] = [
        {}, {"size": 32}, {"work_size": 32}, {"style_size": 64}, {"bits": 12},
        {"alpha": 0.5}, {"styles_per_image": 2}, {"seed": 1},
        {"limit": 5}, {"test_fraction": 0.2}, {"codec": "png"}, {"quality": 90},
        {"transfer": "both"}, {"transfer": "colours"},
    ]  # fmt: skip
    assert len({spec_digest(make_job("shapes", **option).spec.document()) for option in options}) == len(options)
    assert make_job("shapes").spec.document() == make_job("shapes").spec.document()


@pytest.mark.parametrize(
    "option",
    [{"size": 15}, {"work_size": 8}, {"style_size": 8}, {"style_size": 4000}, {"bits": 7}, {"bits": 17}, {"limit": 0},
     {"alpha": -0.1},
     {"alpha": float("nan")}, {"styles_per_image": 101}, {"test_fraction": 1.0}, {"codec": "gif"}, {"quality": 101},
     {"seed": -1}, {"transfer": "textures"}],
)  # fmt: skip
def test_options_out_of_range_are_refused_and_quoted(option: dict[str, object]) -> None:
    (value,) = option.values()
    with pytest.raises(InputError, match=str(value)):
        ShardOptions(**option)  # type: ignore[arg-type]


def test_a_working_size_is_refused_where_no_network_works() -> None:
    with pytest.raises(InputError, match=r"--work-size 64 .*--transfer colours"):
        ShardOptions(transfer="colours", work_size=64)


def test_later_options_are_in_the_manifest_only_where_they_were_given(make_job: JobMaker) -> None:
    assert not {"transfer", "style_size", "bits"} & set(make_job("shapes").spec.document())
    assert make_job("shapes", transfer="both").spec.document()["transfer"] == "both"
