#!/usr/bin/env bash
# Adapts a model on a cluster with Slurm, one process for each GPU, with the run folder on storage that all nodes see. Two
# minutes before the time is over the run saves itself and the job goes back into the queue.
#
#     sbatch slurm.sh
#
# To change: partition and account, nodes, GPUs and time, and the four lines below.
#SBATCH --job-name=unmask
#SBATCH --partition=gpu
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=4 --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120 --requeue --open-mode=append
#SBATCH --output=unmask-%j.log

VENV=/shared/venv                        # an environment with unmask, on all nodes
TEXT=/shared/notes                       # or a folder of `unmask prepare`
MODEL=bert-base-uncased                  # compute nodes without a network: a folder, or HF_HOME on shared storage
RUN=/shared/runs/notes

source "$VENV/bin/activate"
rm -f "$RUN/exit_code"
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1):29500" \
  -m unmask train "$TEXT" --model "$MODEL" -o "$RUN" --resume &
# A shell waits for its children, and has to hand the signal on. The second wait is for what they do about it.
trap 'kill -TERM $!' TERM
wait $! || wait $!

# torchrun ends with 1 whatever its processes say; the run leaves its own code in the folder: 75 can be resumed.
code=$(cat "$RUN/exit_code" 2>/dev/null || echo 1)
[ "$code" = 75 ] && exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
