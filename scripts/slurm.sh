#!/usr/bin/env bash
# An example for Slurm: one training or test on two machines with four GPUs each, one process per GPU.
#
#   sbatch scripts/slurm.sh trainCls.py --dataset melBin --method pgdat --model res18 --eps 8 --bs 256 --resume
#
# --bs is the batch size of all GPUs together. Two minutes before the time limit, Slurm sends SIGTERM: a training saves its
# state, a test its finished batches. Submit the job again to continue.
#SBATCH --job-name=advmia
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" # Slurm runs a copy of this file
. scripts/python.sh
pick_python requirements.txt || { echo "${0##*/}: no Python 3.11 or later with the packages of requirements.txt: set PYTHON to one" >&2; exit 2; }

FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Since Slurm 22.05, srun does not inherit --cpus-per-task from the job.
exec srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task "$SLURM_CPUS_PER_TASK"} \
  "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$FIRST:${PORT:-29400}" "$@"
