"""One verdict for all processes of a job: `torch.distributed` with DistributedDataParallel or `fully_shard`."""
