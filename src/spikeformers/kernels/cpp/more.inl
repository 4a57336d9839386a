// Included by more.cpp once for each instruction set, as body.inl is by path_*.cpp; the same rules.

std::uint64_t edges(const float* current, float* carry, bool first, float decay, float threshold) {
  std::uint64_t fired = 0;
#if defined(SPIKEFORMERS_AVX512)
  const __m512 bar = _mm512_set1_ps(threshold), keep = _mm512_set1_ps(decay);
  for (int j = 0; j < kPage; j += 16) {
    __m512 u = _mm512_loadu_ps(current + j);
    if (!first) u = _mm512_add_ps(u, _mm512_loadu_ps(carry + j));
    const __mmask16 s = _mm512_cmp_ps_mask(u, bar, _CMP_GE_OQ);
    u = _mm512_mul_ps(keep, u);
    _mm512_storeu_ps(carry + j, _mm512_mask_sub_ps(u, s, u, bar));
    fired |= static_cast<std::uint64_t>(s) << j;
  }
#elif defined(SPIKEFORMERS_AVX2)
  const __m256 bar = _mm256_set1_ps(threshold), keep = _mm256_set1_ps(decay);
  for (int j = 0; j < kPage; j += 8) {
    __m256 u = _mm256_loadu_ps(current + j);
    if (!first) u = _mm256_add_ps(u, _mm256_loadu_ps(carry + j));
    const __m256 s = _mm256_cmp_ps(u, bar, _CMP_GE_OQ);
    _mm256_storeu_ps(carry + j, _mm256_sub_ps(_mm256_mul_ps(keep, u), _mm256_and_ps(s, bar)));
    fired |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_ps(s))) << j;
  }
#else
  for (int j = 0; j < kPage; ++j) {
    const float u = first ? current[j] : carry[j] + current[j];
    const bool s = u >= threshold;
    carry[j] = decay * u - (s ? threshold : 0.0f);
    fired |= static_cast<std::uint64_t>(s) << j;
  }
#endif
  return fired;
}

const MoreKernels table = {edges};
