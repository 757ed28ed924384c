"""The error codes that the container runtime gets from us, in one table.

Used by the protocol, the server and the agent's pods; 1 to 99 are from the CNI specification 1.1 (section
"Error"), 100 and above are this plugin's own. Nothing here does I/O.
"""

from enum import IntEnum

from k8s_ovs.errors import CniError, DataplaneError, ExhaustedError, K8sOvsError, LinkError


class Code(IntEnum):
    """`code` of a CNI error object.

    | code | meaning | what to do |
    | --- | --- | --- |
    | 1 | cniVersion is not one of ours, or does not know this command | change the configuration |
    | 2 | a key of the configuration that this plugin cannot honour; the message names it | remove it |
    | 3 | the container or its network namespace does not exist; nothing needs to be cleaned up | nothing |
    | 4 | a CNI_ variable is missing or wrong; the message names it | change the runtime's call |
    | 5 | reading or writing the request failed | see the message |
    | 6 | the configuration is no JSON object, or is too large | change the configuration |
    | 7 | the configuration is JSON but wrong | change the configuration |
    | 11 | not now: the agent is away or starting, or the Namespace has no NetID yet | ask again |
    | 50 | STATUS: no pod can be attached now | see the message |
    | 51 | STATUS: as 50, and attached pods may have limited connectivity | see the message |
    | 100 | the kernel refused a link, address or route | see the message |
    | 101 | Open vSwitch refused a port or a flow, or does not answer | see that it runs |
    | 102 | the host subnet has no free address | delete pods or enlarge HostSubnetLength |
    | 103 | CHECK: the pod's network is not as it was made | delete the pod, so that it is made again |
    | 104 | GC: some attachments could not be removed; the message names them | ask again |
    | 105 | a bandwidth annotation of the pod is no quantity, or not between 1k and 1P | correct the annotation |
    | 199 | a defect of this program; the agent's log has the trace | report it |
    """

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN = 11
    UNAVAILABLE = 50
    LIMITED = 51
    LINK_REFUSED = 100
    SWITCH_REFUSED = 101
    NO_ADDRESS = 102
    CHECK_FAILED = 103
    GC_INCOMPLETE = 104
    BAD_LIMIT = 105
    INTERNAL = 199


def code_of(error: K8sOvsError) -> int:
    """The code for an error of ours that is about to be answered."""
    match error:
        case CniError():
            return error.code
        case LinkError():
            return Code.LINK_REFUSED
        case DataplaneError():
            return Code.SWITCH_REFUSED
        case ExhaustedError():
            return Code.NO_ADDRESS
        case _:
            return Code.INTERNAL


def as_cni_error(error: K8sOvsError, about: str) -> CniError:
    """`error` as an answer to the runtime: what it is about ("pod web/a"), said once, its message and its notes."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    message = error.message.removeprefix(f"{about}: ")
    return CniError(code_of(error), f"{about}: {message}{notes}", remedy=error.remedy)
