/* Crops, resizes and flips RGB images in one pass over their bytes.
 *
 * The arithmetic is that of torch's uint8 kernel: integer weights, a row pass rounded to bytes and
 * then a column pass. So the results are the same bits. The tables are made by crops.py.
 */
#include <immintrin.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2")))
#define LOAD16(address) _mm_loadu_si128((const __m128i *)(address))
#define LOAD32(address) _mm256_loadu_si256((const __m256i *)(address))

/* Weights of one axis; those of an output are in pairs, as one instruction adds two products. */
typedef struct {
    const uint8_t *shuffles; /* (groups, pairs, 16): bytes of a load that belong to four outputs */
    const int16_t *weights;  /* of rows (groups, pairs, 8), of columns (size, pairs, 2) */
    const int32_t *places;   /* first byte of a load (groups, pairs), or line (size, pairs, 2) */
    int64_t pairs;
    int64_t precision; /* number of fractional bits of the weights */
} Axis;

typedef struct {
    const uint8_t *source; /* first byte of the crop */
    int64_t stride;        /* bytes from one row of the image to the next */
    int64_t height;
    const Axis *rows;
    const Axis *columns;
    uint8_t *target; /* (size, size, 3) */
} Crop;

AVX2 static __m256i two_lines(const uint8_t *first, const uint8_t *second) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(LOAD16(first)), LOAD16(second), 1);
}

/* Return sums + the products of two neighbouring pixels, which are `order` in `bytes`. */
AVX2 static __m256i added(__m256i sums, __m256i bytes, __m256i order, __m256i weights) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_shuffle_epi8(bytes, order), weights));
}

/* Return four vectors of sums as bytes, limited to 0 and 255. */
AVX2 static __m256i as_bytes(const __m256i sums[4], int64_t precision) {
    const __m128i shift = _mm_cvtsi64_si128(precision);
    const __m256i low = _mm256_packs_epi32(_mm256_sra_epi32(sums[0], shift),
                                           _mm256_sra_epi32(sums[1], shift));
    const __m256i high = _mm256_packs_epi32(_mm256_sra_epi32(sums[2], shift),
                                            _mm256_sra_epi32(sums[3], shift));
    return _mm256_packus_epi16(low, high);
}

AVX2 static void store_two_lines(uint8_t *first, uint8_t *second, __m256i bytes) {
    _mm_storeu_si128((__m128i *)first, _mm256_castsi256_si128(bytes));
    _mm_storeu_si128((__m128i *)second, _mm256_extracti128_si256(bytes, 1));
}

/* Resize four rows to `width` bytes each, a multiple of 16. */
AVX2 static void four_rows(const uint8_t *const in[4], uint8_t *const out[4], int64_t width,
                           const Axis *axis) {
    const __m256i half = _mm256_set1_epi32(1 << (axis->precision - 1));
    const uint8_t *shuffles = axis->shuffles;
    const int16_t *weights = axis->weights;
    const int32_t *places = axis->places;
    for (int64_t byte = 0; byte < width; byte += 16) {
        __m256i upper[4], lower[4];
        for (int group = 0; group < 4; group++) {
            __m256i first = half, second = half;
            for (int64_t pair = 0; pair < axis->pairs; pair++) {
                const int64_t place = *places++;
                const __m256i order = _mm256_broadcastsi128_si256(LOAD16(shuffles));
                const __m256i weight = _mm256_broadcastsi128_si256(LOAD16(weights));
                first = added(first, two_lines(in[0] + place, in[1] + place), order, weight);
                second = added(second, two_lines(in[2] + place, in[3] + place), order, weight);
                shuffles += 16;
                weights += 8;
            }
            upper[group] = first;
            lower[group] = second;
        }
        store_two_lines(out[0] + byte, out[1] + byte, as_bytes(upper, axis->precision));
        store_two_lines(out[2] + byte, out[3] + byte, as_bytes(lower, axis->precision));
    }
}

/* Write line `y` of the output, of `bytes` >= 32, from lines that are `width` apart. */
AVX2 static void one_line(const uint8_t *lines, int64_t width, uint8_t *out, int64_t bytes,
                          int64_t y, const Axis *axis) {
    const __m256i half = _mm256_set1_epi32(1 << (axis->precision - 1));
    const __m256i zero = _mm256_setzero_si256();
    const int32_t *weights = (const int32_t *)axis->weights + y * axis->pairs;
    const int32_t *places = axis->places + 2 * y * axis->pairs;
    for (int64_t next = 0; next < bytes; next += 32) {
        const int64_t byte = next + 32 <= bytes ? next : bytes - 32; /* the last two may overlap */
        __m256i sums[4] = {half, half, half, half};
        for (int64_t pair = 0; pair < axis->pairs; pair++) {
            const __m256i weight = _mm256_set1_epi32(weights[pair]);
            const __m256i first = LOAD32(lines + places[2 * pair] * width + byte);
            const __m256i second = LOAD32(lines + places[2 * pair + 1] * width + byte);
            const __m256i low = _mm256_unpacklo_epi8(first, second);
            const __m256i high = _mm256_unpackhi_epi8(first, second);
            const __m256i pairs[4] = {
                _mm256_unpacklo_epi8(low, zero), _mm256_unpackhi_epi8(low, zero),
                _mm256_unpacklo_epi8(high, zero), _mm256_unpackhi_epi8(high, zero)};
            for (int part = 0; part < 4; part++)
                sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(pairs[part], weight));
        }
        _mm256_storeu_si256((__m256i *)(out + byte), as_bytes(sums, axis->precision));
    }
}

/* Resize crops to `size` pixels. `lines` has space for the highest crop after the row pass: its
 * height as a multiple of 4, times 3 * size as a multiple of 32. */
void resize_crops(const Crop *crops, int64_t count, int64_t size, uint8_t *lines) {
    const int64_t bytes = 3 * size, width = (bytes + 31) / 32 * 32;
    for (const Crop *crop = crops; crop < crops + count; crop++) {
        for (int64_t y = 0; y < crop->height; y += 4) {
            const uint8_t *in[4];
            uint8_t *out[4];
            for (int64_t k = 0; k < 4; k++) {
                const int64_t row = y + k < crop->height ? y + k : crop->height - 1;
                in[k] = crop->source + row * crop->stride;
                out[k] = lines + (y + k) * width;
            }
            four_rows(in, out, width, crop->rows);
        }
        for (int64_t y = 0; y < size; y++)
            one_line(lines, width, crop->target + y * bytes, bytes, y, crop->columns);
    }
}
