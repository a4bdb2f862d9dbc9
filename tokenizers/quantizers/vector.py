"""Vector quantization: the code of a vector is its nearest entry in a learned codebook (VQ-VAE; MAGVIT, §3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videopoet.tokenizers.quantizers.quantizer import Quantized, Quantizer, check_codes, check_latents
from videopoet.tokenizers.quantizers.usage import code_perplexity, code_usage
from videopoet.tokenizers.ranks import num_ranks, rank, sum_over_ranks

DISTANCES = 2**24  # vectors x codes compared at one time: 64 MiB


class VectorQuantizer(Quantizer):
    """`size` vectors; a latent becomes the nearest, `code = argmin_i |z - e_i|^2`.

    The codebook learns without gradients, by exponential moving averages (VQ-VAE, App. A.1): with n_i latents of mean
    m_i at code i and N_i the moving average of n_i, `e_i += (1 - decay) n_i / N_i (m_i - e_i)`. It starts by k-means
    on the first training batch (`kmeans_steps` = 0: by vectors of that batch). A code drawn less than `dead_code_usage`
    of an even share is dead and becomes a random latent of the batch; 0 turns that off. It is meant for codebooks that
    1 / (1 - decay) batches can fill several times over: where they cannot, chance decides which codes are dead.

    `code_dimension` projects latents into that many channels before the search and back after it; `normalize` compares
    directions, on the unit sphere (both ViT-VQGAN §3.2, and the quantizer of C-ViViT).

    The loss is the commitment `commitment_weight * mean |z - sg(e)|^2` over all elements, z as compared. The gradient
    passes straight through the search: without projection and normalisation it is the identity.

    Statistics, draws and the k-means are those of the joint batch of all ranks, which must hold equally many latents;
    every rank keeps the same codebook. Draws depend on the number of updates so far and nothing else, so a resumed run
    repeats an unbroken one.

    Example with codebook ((0, 0), (1, 1)): z = (0.9, 0.4) has squared distances 0.97 and 0.37 -> code 1 -> (1, 1).
    """

    def __init__(
        self,
        size: int = 1024,
        dimension: int = 256,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        code_dimension: int | None = None,
        normalize: bool = False,
        dead_code_usage: float = 0.1,
        kmeans_steps: int = 10,
    ):
        """Raises ValueError if a count is not positive or a rate lies outside its range."""
        super().__init__()
        code_dimension = code_dimension or dimension
        for name, count in {"size": size, "dimension": dimension, "code_dimension": code_dimension}.items():
            if count < 1:
                raise ValueError(f"{name} is {count}, must be at least 1")
        if not 0 < decay < 1 or not 0 <= dead_code_usage < 1:
            raise ValueError(f"decay {decay} must lie in (0, 1) and dead_code_usage {dead_code_usage} in [0, 1)")
        self.size, self.dimension, self.decay, self.commitment_weight = size, dimension, decay, commitment_weight
        self.normalize, self.dead_code_usage, self.kmeans_steps = normalize, dead_code_usage, kmeans_steps
        projected = code_dimension != dimension
        self.project_in = nn.Linear(dimension, code_dimension) if projected else nn.Identity()
        self.project_out = nn.Linear(code_dimension, dimension) if projected else nn.Identity()
        # Random until the first batch, so that an untrained quantizer works (and means nothing).
        self.register_buffer("codebook", self._compared(torch.randn(size, code_dimension) * code_dimension**-0.5))
        self.register_buffer("share", torch.zeros(size))  # moving average of the fraction of latents at each code
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, latents: Tensor) -> Quantized:
        """latents float (b, dimension, *lattice) -> same; codes int64 (b, *lattice).

        Metrics in training: `commitment`; `usage` and `perplexity` of the codes in the global batch; `reborn`, the
        number of codes replaced. Codes and latents refer to the codebook of before the update.
        """
        check_latents(latents, self.dimension)
        z = self.project_in(latents.movedim(1, -1))
        lattice = z.shape[:-1]
        with torch.autocast(latents.device.type, enabled=False):  # distances lose their small differences in bf16
            z = self._compared(z.float().reshape(-1, z.shape[-1]))
            learns = self.training and torch.is_grad_enabled()
            if learns and not self.updates:
                self._start(z.detach())
            codes = self.nearest(z.detach())
            nearest = F.embedding(codes, self.codebook)
            loss, metrics = z.new_zeros(()), {}
            if self.training:
                commitment = F.mse_loss(z, nearest)
                loss, metrics = self.commitment_weight * commitment, {"commitment": commitment.detach()}
            if learns:
                metrics |= self._update(z.detach(), codes)
            quantized = nearest + (z - z.detach())
        return Quantized(self._restored(quantized, lattice, latents.dtype), codes.reshape(lattice), loss, metrics)

    def embed(self, codes: Tensor) -> Tensor:
        """codes int64 (b, *lattice) -> latents (b, dimension, *lattice), in the dtype of the projection or float32."""
        check_codes(codes, self.size)
        dtype = next((parameter.dtype for parameter in self.parameters()), torch.float32)
        return self._restored(F.embedding(codes.flatten(), self.codebook), codes.shape, dtype)

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """float32 (n, code_dimension) -> int64 (n,), the first of the nearest codes; never n x size at one time."""
        half_norms = self.codebook.square().sum(1) / 2
        pieces = vectors.split(max(1, DISTANCES // self.size))
        return torch.cat([(piece @ self.codebook.T - half_norms).argmax(1) for piece in pieces])

    def _compared(self, vectors: Tensor) -> Tensor:
        """Vectors (n, c) in the space where distances are taken."""
        return F.normalize(vectors, dim=1) if self.normalize else vectors

    def _restored(self, vectors: Tensor, lattice: torch.Size, dtype: torch.dtype) -> Tensor:
        """Codebook vectors (n, code_dimension) -> latents (b, dimension, *lattice)."""
        return self.project_out(vectors.to(dtype)).reshape(*lattice, self.dimension).movedim(-1, 1).to(dtype)

    @torch.no_grad()
    def _start(self, vectors: Tensor) -> None:
        """Codebook from the first batch. Codes it has no vector for stay random, count as dead and are reborn later."""
        drawn = self._draw(vectors, self.size)
        self.codebook[: len(drawn)] = drawn
        self.share[: len(drawn)] = 1 / self.size
        for _ in range(self.kmeans_steps):
            counts, sums = self._statistics(vectors, self.nearest(vectors))
            means = self._compared(sums / counts.clamp(min=1)[:, None])
            self.codebook.copy_(torch.where(counts[:, None] > 0, means, self.codebook))

    @torch.no_grad()
    def _update(self, vectors: Tensor, codes: Tensor) -> dict[str, Tensor]:
        counts, sums = self._statistics(vectors, codes)
        total = len(vectors) * num_ranks()
        self.share.lerp_(counts / total, 1 - self.decay)
        step = (1 - self.decay) / (self.share * total).clamp_min(
            1e-12
        )  # at most 1 / counts: towards the mean, not past
        self.codebook.add_(step[:, None] * (sums - counts[:, None] * self.codebook))
        if self.normalize:
            self.codebook.copy_(self._compared(self.codebook))
        dead = (self.share * self.size < self.dead_code_usage).nonzero().flatten()
        if len(dead):
            drawn = self._draw(vectors, len(dead))
            dead = dead[: len(drawn)]
            self.codebook[dead], self.share[dead] = drawn, 1 / self.size
        self.updates += 1
        return {
            "usage": code_usage(counts),
            "perplexity": code_perplexity(counts),
            "reborn": counts.new_tensor(len(dead)),
        }

    def _statistics(self, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Number (size,) and sum (size, code_dimension) of the vectors at each code, over all ranks."""
        rows = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
        table = sum_over_ranks(rows.new_zeros(self.size, rows.shape[1]).index_add_(0, codes, rows))
        return table[:, -1], table[:, :-1]

    def _draw(self, vectors: Tensor, count: int) -> Tensor:
        """Up to `count` different vectors of the joint batch of all ranks, the same on every rank."""
        generator = torch.Generator().manual_seed(int(self.updates))
        index = torch.randperm(len(vectors) * num_ranks(), generator=generator)[:count].to(vectors.device)
        index = index - rank() * len(vectors)
        mine = (index >= 0) & (index < len(vectors))
        return sum_over_ranks(torch.where(mine[:, None], vectors[index.clamp(0, len(vectors) - 1)], 0.0))

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.codebook, self.share = self.codebook.float(), self.share.float()  # averages stall in half precision
        return self
