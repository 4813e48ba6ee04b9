"""Jobs as the journal has them, and back."""

from ...core.errors import InputError
from ...request import Request
from .job import Origin, State, StudioJob
from .journal import Entry


def entry_of(job: StudioJob) -> Entry:
    """Returns the journal's entry of a job."""
    return Entry(
        id=job.id,
        turn=job.turn,
        kind=job.origin.kind,
        client=job.origin.client,
        grouping=job.group,
        keep=job.keep,
        target=job.target,
        request=job.request.to_json(),
        state=job.state.value,
        error=job.error,
        field=job.field,
        created=job.created,
        started=job.started,
        ended=job.ended,
    )


def job_of(entry: Entry) -> StudioJob:
    """Returns the job of the journal's entry; one whose request this version cannot read has failed."""
    error, state = entry.error, State.QUEUED if entry.state == State.RUNNING.value else State(entry.state)
    try:
        request = Request.from_json(entry.request, "the journal")
    except InputError as problem:
        request, error, state = Request(), str(problem), State.FAILED
    return StudioJob(
        entry.id,
        Origin(entry.kind, entry.client),
        request,
        entry.grouping,
        entry.keep,
        entry.target,
        state=state,
        error=error,
        field=entry.field,
        created=entry.created,
        started=entry.started,
        ended=entry.ended,
        turn=entry.turn,
    )
