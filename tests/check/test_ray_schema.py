import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve.schema import ServeDeploySchema

from deployments.check.ray_schema import at, entries, ray_problems, serve_variables
from tests.effort import examples

VARIABLES = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}

ROUTER = "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"


def config(**changes: Any) -> dict[str, Any]:
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
        "controller_options": {"runtime_env": {"env_vars": dict(VARIABLES)}},
        "logging_config": {"encoding": "JSON"},
        "applications": [
            {
                "name": "anyshape",
                "import_path": "deployments.app:build",
                "runtime_env": {"env_vars": {**VARIABLES, "ANYSHAPE_MODELS": "m"}},
                "args": {"anything": {"at": ["all"]}},
                "deployments": [
                    {
                        "name": "m",
                        "num_replicas": "auto",
                        "autoscaling_config": {"min_replicas": 2, "max_replicas": 4},
                        "ray_actor_options": {"num_cpus": 1, "runtime_env": {"pip": []}},
                        "request_router_config": {"request_router_class": ROUTER},
                    }
                ],
            }
        ],
        **changes,
    }


def application(**changes: Any) -> dict[str, Any]:
    whole = config()
    whole["applications"][0].update(changes)
    return whole


def deployment(**changes: Any) -> dict[str, Any]:
    whole = config()
    whole["applications"][0]["deployments"][0].update(changes)
    return whole


def lines(document: object) -> list[str]:
    return [str(problem) for problem in ray_problems(document)]


@pytest.mark.parametrize(
    "document",
    [
        config(),
        config(controller_options=None, applications=[{"import_path": "a:b"}]),
        deployment(num_replicas=3, autoscaling_config=None),
        deployment(user_config={"any": {"key": 1}}, ray_actor_options={"resources": {"x": 1}}),
        deployment(autoscaling_config={"min_replicas": 5}),  # "auto" raises max_replicas to 100
    ],
)
def test_a_good_file_has_no_problems_and_is_left_as_it_is(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    assert lines(document) == []
    assert before == document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (config(http_optoins={}), "http_optoins: unknown setting, did you mean 'http_options'?"),
        (
            config(http_options={"prot": 1}),
            "http_options.prot: unknown setting, did you mean 'port'?",
        ),
        (
            config(grpc_options={"request_timeout": 1}),
            "grpc_options.request_timeout: unknown setting, did you mean 'request_timeout_s'?",
        ),
        (
            config(logging_config={"log_levle": "INFO"}),
            "logging_config.log_levle: unknown setting, did you mean 'log_level'?",
        ),
        (
            config(tracing_config={"enable": True}),
            "tracing_config.enable: unknown setting, did you mean 'enabled'?",
        ),
        (
            application(imports_path="a:b"),
            "applications[0].imports_path: unknown setting, did you mean 'import_path'?",
        ),
        (
            deployment(num_replica=1),
            (
                "applications[0].deployments[0].num_replica: "
                "unknown setting, did you mean 'num_replicas'?"
            ),
        ),
        (
            deployment(autoscaling_config={"max_replica": 1}),
            (
                "applications[0].deployments[0].autoscaling_config.max_replica: "
                "unknown setting, did you mean 'max_replicas'?"
            ),
        ),
        (
            deployment(ray_actor_options={"num_cpu": 1}),
            (
                "applications[0].deployments[0].ray_actor_options.num_cpu: "
                "unknown setting, did you mean 'num_cpus'?"
            ),
        ),
        (
            deployment(request_router_config={"request_router_clas": "a:b"}),
            (
                "applications[0].deployments[0].request_router_config.request_router_clas: "
                "unknown setting, did you mean 'request_router_class'?"
            ),
        ),
        (
            deployment(backpressure_config={"status": 503}),
            (
                "applications[0].deployments[0].backpressure_config.status: "
                "unknown setting, did you mean 'status_code'?"
            ),
        ),
        (
            deployment(deployment_actors=[{"name": "x", "actor_clas": "a:b"}]),
            (
                "applications[0].deployments[0].deployment_actors[0].actor_clas: "
                "unknown setting, did you mean 'actor_class'?"
            ),
        ),
        (
            application(runtime_env={"env_var": {}, "env_vars": VARIABLES}),
            "applications[0].runtime_env.env_var: unknown setting, did you mean 'env_vars'?",
        ),
        (
            application(runtime_env={"config": {"setup_timeout": 1}, "env_vars": VARIABLES}),
            (
                "applications[0].runtime_env.config.setup_timeout: "
                "unknown setting, did you mean 'setup_timeout_seconds'?"
            ),
        ),
        (
            deployment(ray_actor_options={"runtime_env": {"pips": []}}),
            (
                "applications[0].deployments[0].ray_actor_options.runtime_env.pips: "
                "unknown setting, did you mean 'pip'?"
            ),
        ),
        (
            config(controller_options={"runtime_env": {"env_vars": VARIABLES, "pip": []}}),
            "controller_options.runtime_env.pip: unknown setting, known here: env_vars",
        ),
    ],
)
def test_a_mistyped_key_is_found_wherever_it_stands(
    document: dict[str, Any], expected: str
) -> None:
    assert [expected] == lines(document)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, ["must be a mapping, not empty"]),
        ({}, ["applications: required setting is missing"]),
        ({"applications": {}}, ["applications: must be a list, not a mapping"]),
        ({"applications": [5]}, ["applications[0]: must be a mapping, not 5"]),
        ({"applications": [{}]}, ["applications[0].import_path: required setting is missing"]),
        (config(http_options=[]), ["http_options: must be a mapping, not a list"]),
        (
            config(http_options={"port": "http"}),
            ["http_options.port: must be an integer, not 'http'"],
        ),
        (
            config(proxy_location="Everywhere"),
            ["proxy_location: must be 'Disabled', 'HeadOnly' or 'EveryNode', not 'Everywhere'"],
        ),
        (
            deployment(max_ongoing_requests=0),
            ["applications[0].deployments[0].max_ongoing_requests: must be more than 0, not 0"],
        ),
        (
            deployment(num_replicas=2),
            [
                (
                    "applications[0].deployments[0]: Manually setting num_replicas is not allowed "
                    "when autoscaling_config is provided."
                )
            ],
        ),
        (
            deployment(autoscaling_config={"max_replicas": "many"}),
            [
                (
                    "applications[0].deployments[0].autoscaling_config.max_replicas: "
                    "must be an integer, not 'many'"
                )
            ],
        ),
    ],
)
def test_what_ray_would_refuse_is_said_once_and_readably(
    document: object, expected: list[str]
) -> None:
    assert expected == lines(document)


def test_a_value_that_trips_rays_validation_is_a_problem() -> None:
    document = application(deployments=["m"])
    with pytest.raises(AttributeError):
        ServeDeploySchema.model_validate(document)
    assert lines(document) == [
        "applications[0].deployments[0]: must be a mapping, not 'm'",
        "Ray cannot read it: 'str' object has no attribute 'get'",
    ]


def test_a_router_that_cannot_be_imported_is_a_problem() -> None:
    document = deployment(request_router_config={"request_router_class": "no_such_module:Router"})
    assert lines(document) == ["Ray cannot read it: No module named 'no_such_module'"]


def test_environment_values_have_to_be_text_and_are_not_repeated() -> None:
    document = application(runtime_env={"env_vars": {**VARIABLES, "PASSWORD": 1234}})
    assert lines(document) == [
        "applications[0].runtime_env.env_vars.PASSWORD: must be text: put it in quotes"
    ]


def test_a_mistyped_ray_serve_variable_is_found() -> None:
    mistyped = {"RAY_SERVE_ENABLE_HAPROXY": "1"}
    document = application(runtime_env={"env_vars": mistyped})
    document["controller_options"]["runtime_env"]["env_vars"] = mistyped
    complaint = (
        "RAY_SERVE_ENABLE_HAPROXY: Ray Serve 2.60.0 reads no such variable, "
        "did you mean 'RAY_SERVE_ENABLE_HA_PROXY'?"
    )
    assert lines(document) == [
        f"controller_options.runtime_env.env_vars.{complaint}",
        f"applications[0].runtime_env.env_vars.{complaint}",
    ]


def test_a_variable_that_looks_like_no_other_gets_no_suggestion() -> None:
    document = deployment(ray_actor_options={"runtime_env": {"env_vars": {"RAY_SERVE_QQQ": "1"}}})
    assert lines(document) == [
        (
            "applications[0].deployments[0].ray_actor_options.runtime_env.env_vars.RAY_SERVE_QQQ: "
            "Ray Serve 2.60.0 reads no such variable"
        )
    ]


def test_serve_variables_have_to_agree_between_controller_and_application() -> None:
    document = application(
        runtime_env={"env_vars": {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}}
    )
    assert lines(document) == [
        (
            "applications[0].runtime_env.env_vars.RAY_SERVE_ENABLE_HA_PROXY: "
            "must be '1' as under controller_options, not '0'"
        ),
        (
            "applications[0].runtime_env.env_vars.RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "
            "required setting is missing: controller_options has it with '0'"
        ),
        (
            "controller_options.runtime_env.env_vars.RAY_SERVE_LOG_TO_STDERR: "
            "required setting is missing: applications[0] has it with '0'"
        ),
    ]


def test_serve_variables_come_from_rays_sources() -> None:
    assert set(VARIABLES) < serve_variables()
    assert len(serve_variables()) > 100
    assert not [name for name in serve_variables() if name.endswith("_")]


def test_keys_that_lead_nowhere_give_nothing() -> None:
    assert at({"a": {"b": 1}}, "a", "b") == 1
    assert at({"a": [1]}, "a", "b") is None
    assert entries({"a": {"b": [1]}}, "a", "b") == [1]
    assert entries({"a": {"b": {}}}, "a", "b") == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "auto", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of a value and of all values inside it."""
    steps = list(value) if isinstance(value, dict) else []
    steps = list(range(len(value))) if isinstance(value, list) else steps
    return [path, *(place for step in steps for place in _places(value[step], (*path, step)))]


@settings(deadline=None, max_examples=examples(100))
@given(st.sampled_from(_places(config())[1:]), values)
def test_any_value_in_any_place_is_reported_if_ray_would_refuse_it(
    place: tuple[Any, ...], value: Any
) -> None:
    document = config()
    target: Any = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    try:
        ServeDeploySchema.model_validate(copy.deepcopy(document))
    except Exception:
        refused = True
    else:
        refused = False
    found = lines(document)
    assert found or not refused
    assert len(found) == len(set(found))
    assert not [line for line in found if "\n" in line]
