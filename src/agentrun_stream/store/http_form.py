"""Requests whose query and parameters come as a form: clients send them so when they are too long for an address.

Must not live here: what the fields mean.
"""

from dataclasses import replace
from email.parser import BytesParser
from email.policy import HTTP

from agentrun_stream.store.http_request import Request, RequestError

_KIND = "multipart/form-data"


def with_form(request: Request) -> Request:
    """The request with the fields of its form among its parameters, and no body; itself where it has no form.

    Raises RequestError for what is no form, and for files: external tables are not served.
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith(_KIND):
        return request
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=HTTP).parsebytes(head + request.body)
    if not message.is_multipart():
        raise RequestError(36, "The form can't be read. (BAD_ARGUMENTS)", 400)
    fields: dict[str, str] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None or not isinstance(name, str):
            raise RequestError(48, "External tables are not served. (NOT_IMPLEMENTED)", 501)
        payload = part.get_payload(decode=True)
        fields[name] = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    return replace(request, params={**request.params, **fields}, body=b"")
