"""The names of the variables by which a job finds its agent and its GPUs. What else it is told is named where it is made."""

from __future__ import annotations

SOCKET_VARIABLE = "LWFM_SOCKET"
"""The agent's socket."""
RENDEZVOUS_VARIABLE = "LWFM_RENDEZVOUS"
"""The file that tells where the agent is, for a job whose node need not be that of the agent."""
WITHIN_VARIABLE = "LWFM_WITHIN"
"""The job, and its workflow if it has one, that an instance is within: two ids with a blank between them."""
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Each names the same GPUs: of NVIDIA, of AMD, of Intel."""
