"""A thousand requests made from the OpenAPI document, right and wrong ones: none may break the server."""

from __future__ import annotations

import httpx2
import pytest


@pytest.mark.slow
def test_no_request_breaks_the_server(url: str, client: httpx2.Client) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: list[int] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        # A request without a body cannot be wrong.
        for mode in list(GenerationMode) if operation.method == "post" else [GenerationMode.POSITIVE]:

            @settings(
                max_examples=100,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def call(case: schemathesis.Case) -> None:
                answer = case.call(base_url=url, timeout=60)
                statuses.append(answer.status_code)
                assert answer.status_code < 500, answer.text

            call()
    assert len(statuses) >= 1000
    assert client.get("/health/ready").status_code == 200
