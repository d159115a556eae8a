/*
 * libjpeg with an error manager of its own: a fatal error ends a call with `false`, and warnings are sorted by their codes.
 * TurboJPEG, which wraps libjpeg too, reports one message for a picture and no code.
 *
 * libjpeg leaves a call by longjmp; it is caught here, so that it never crosses a Rust frame.
 */

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* Same as `Header` in libjpeg.rs. */
struct header {
  uint32_t width;
  uint32_t height;
  /* The picture is CMYK or YCCK. */
  bool inks;
  /* All coefficients are kept until the last scan is read. */
  bool buffered;
};

/* Same as `Warnings` in libjpeg.rs. */
struct warnings {
  /* Samples are missing or wrong: `message` has the first warning. */
  bool damage;
  /* The file ends without its end marker. */
  bool no_end;
  /* Bytes between the last scan and the end marker. */
  uint32_t stray;
  /* Every bit of every coefficient is known to be read. */
  bool complete;
};

struct decoder {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf fatal;
  enum { HEADER, SCANS, AFTER } phase;
  int max_scans;
  /* A bit for each component that a scan has brought. */
  unsigned seen;
  struct warnings warnings;
  char message[JMSG_LENGTH_MAX];
};

static void on_fatal(j_common_ptr info)
{
  struct decoder *decoder = info->client_data;
  if (!decoder->warnings.damage)
    info->err->format_message(info, decoder->message);
  longjmp(decoder->fatal, 1);
}

static void on_warning(j_common_ptr info, int level)
{
  struct decoder *decoder = info->client_data;
  struct warnings *warnings = &decoder->warnings;
  if (level >= 0)
    return; /* A trace message. */
  switch (info->err->msg_code) {
  case JWRN_ADOBE_XFORM:
  case JWRN_BOGUS_ICC:
  case JWRN_JFIF_MAJOR:
  case JWRN_NOT_SEQUENTIAL:
    return; /* Headers that are out of the ordinary; samples are not concerned. */
  case JWRN_EXTRANEOUS_DATA:
    if (decoder->phase == HEADER)
      return;
    if (warnings->no_end)
      return; /* A trailer: the marker is libjpeg's own, at the end of the file. */
    if (info->err->msg_parm.i[1] == JPEG_EOI) {
      warnings->stray = (uint32_t)info->err->msg_parm.i[0];
      return;
    }
    if (decoder->phase == AFTER) {
      warnings->no_end = true;
      return;
    }
    break;
  case JWRN_JPEG_EOF:
    warnings->no_end = true;
    return; /* Samples that are missing are reported as JWRN_HIT_MARKER. */
  default:
    break;
  }
  if (!warnings->damage)
    info->err->format_message(info, decoder->message);
  warnings->damage = true;
}

static void on_progress(j_common_ptr info)
{
  struct decoder *decoder = info->client_data;
  int i;
  for (i = 0; i < decoder->info.comps_in_scan; i++)
    decoder->seen |= 1u << decoder->info.cur_comp_info[i]->component_index;
  if (decoder->info.input_scan_number > decoder->max_scans) {
    snprintf(decoder->message, sizeof decoder->message, "it has more than %d scans", decoder->max_scans);
    longjmp(decoder->fatal, 1);
  }
}

static void no_message(j_common_ptr info)
{
  (void)info;
}

static bool create(struct decoder *decoder, const unsigned char *bytes, size_t size)
{
  if (setjmp(decoder->fatal))
    return false;
  jpeg_create_decompress(&decoder->info);
  decoder->progress.progress_monitor = on_progress;
  decoder->info.progress = &decoder->progress;
  jpeg_mem_src(&decoder->info, bytes, (unsigned long)size);
  return true;
}

/* A decoder of these bytes, which must outlive it; null where memory is short. */
struct decoder *tagmill_jpeg_open(const unsigned char *bytes, size_t size, int max_scans)
{
  struct decoder *decoder = calloc(1, sizeof *decoder);
  if (decoder == NULL)
    return NULL;
  decoder->max_scans = max_scans;
  decoder->info.err = jpeg_std_error(&decoder->errors);
  decoder->info.client_data = decoder;
  decoder->errors.error_exit = on_fatal;
  decoder->errors.emit_message = on_warning;
  decoder->errors.output_message = no_message;
  if (create(decoder, bytes, size))
    return decoder;
  jpeg_destroy_decompress(&decoder->info);
  free(decoder);
  return NULL;
}

/* Reads up to the first scan. */
bool tagmill_jpeg_read_header(struct decoder *decoder, struct header *header)
{
  struct jpeg_decompress_struct *info = &decoder->info;
  if (setjmp(decoder->fatal))
    return false;
  jpeg_read_header(info, TRUE);
  header->width = info->image_width;
  header->height = info->image_height;
  header->inks = info->jpeg_color_space == JCS_CMYK || info->jpeg_color_space == JCS_YCCK;
  header->buffered = jpeg_has_multiple_scans(info);
  return true;
}

/* Sets the size to decode at, in eighths, and reports it. */
bool tagmill_jpeg_scale(struct decoder *decoder, unsigned eighths, uint32_t *width, uint32_t *height)
{
  struct jpeg_decompress_struct *info = &decoder->info;
  if (setjmp(decoder->fatal))
    return false;
  info->scale_num = eighths;
  info->scale_denom = 8;
  jpeg_calc_output_dimensions(info);
  *width = info->output_width;
  *height = info->output_height;
  return true;
}

/* Whether all scans of a picture whose coefficients are kept have come. */
static bool all_scans(const struct decoder *decoder)
{
  const struct jpeg_decompress_struct *info = &decoder->info;
  int component, coefficient;
  for (component = 0; component < info->num_components; component++) {
    if (!(decoder->seen >> component & 1))
      return false;
    if (info->coef_bits == NULL)
      continue;
    for (coefficient = 0; coefficient < DCTSIZE2; coefficient++)
      if (info->coef_bits[component][coefficient] != 0)
        return false;
  }
  return true;
}

/*
 * Decodes to RGB, or to CMYK, at the size that was set: `size` is what `pixels` has room for. Warnings are set whether it
 * succeeds or not.
 */
bool tagmill_jpeg_decode(struct decoder *decoder, unsigned char *pixels, size_t size, struct warnings *warnings)
{
  struct jpeg_decompress_struct *info = &decoder->info;
  bool inks = info->jpeg_color_space == JCS_CMYK || info->jpeg_color_space == JCS_YCCK;
  decoder->phase = SCANS;
  if (setjmp(decoder->fatal)) {
    *warnings = decoder->warnings;
    return false;
  }
  info->out_color_space = inks ? JCS_CMYK : JCS_RGB;
  info->dct_method = JDCT_ISLOW;
  jpeg_start_decompress(info);
  size_t pitch = (size_t)info->output_width * (inks ? 4 : 3);
  if ((size_t)info->output_components != (size_t)(inks ? 4 : 3) || pitch * info->output_height > size) {
    snprintf(decoder->message, sizeof decoder->message, "its size is not that of its header");
    return false;
  }
  while (info->output_scanline < info->output_height) {
    JSAMPROW rows[16];
    JDIMENSION left = info->output_height - info->output_scanline, count = left < 16 ? left : 16, i;
    for (i = 0; i < count; i++)
      rows[i] = pixels + (info->output_scanline + i) * pitch;
    jpeg_read_scanlines(info, rows, count);
  }
  /* Arithmetic coding may drop zeros at its end, so what is missing can't be told. */
  decoder->warnings.complete = !info->arith_code && (!jpeg_has_multiple_scans(info) || all_scans(decoder));
  decoder->phase = AFTER;
  /* The samples are there: whatever follows them can't take them away. */
  if (setjmp(decoder->fatal) == 0)
    jpeg_finish_decompress(info);
  else
    decoder->warnings.no_end = true;
  *warnings = decoder->warnings;
  return true;
}

/* The fatal error, or the first warning of damage. */
const char *tagmill_jpeg_message(const struct decoder *decoder)
{
  return decoder->message;
}

void tagmill_jpeg_close(struct decoder *decoder)
{
  jpeg_destroy_decompress(&decoder->info);
  free(decoder);
}
